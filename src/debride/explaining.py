"""The work behind ``debride explain``: heatmaps over images, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from debride import screens
from debride.data.checks import look
from debride.data.images import open_images
from debride.data.loading import sample
from debride.errors import DebrideError
from debride.evidence.evidence import Task
from debride.evidence.explanations import heatmaps, lrp_explainer
from debride.evidence.pictures import picture, shown_slice
from debride.evidence.state import frozen
from debride.files import staged_folder
from debride.models.checkpoints import infer_fit, read_state
from debride.models.outputs import logits, probabilities, task_of
from debride.models.spec import ModelSpec
from debride.opening import Network, device_named, open_network, open_parent, stored_network
from debride.progress import track
from debride.report.heatmaps import AGAINST, FOR

if TYPE_CHECKING:
    from debride.settings import ExplainSettings

BATCH = 8
SUFFIXES = frozenset(Image.registered_extensions())


@dataclass(frozen=True)
class _Picture:
    """One image to explain: prepared for the network, and the name of its PNG file."""

    prepared: Tensor
    stem: str


def explain(settings: ExplainSettings) -> None:
    """Write a folder of heatmaps."""
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        raise DebrideError(f"'{settings.out}' is not empty: give --out a new folder")
    network, classes, images = _open(settings)
    screens.show_preparation(network.preprocessing, network.how)
    outputs = network.spec.outputs if network.spec is not None else len(classes)
    multilabel = network.parent is not None and network.parent.task == "multilabel"
    task = task_of(outputs, len(classes), multilabel)
    target = _target(settings.target, classes)
    with staged_folder(settings.out) as stage:
        for batch in images:
            for stem, png in _draw(network, batch, classes, task, target, settings.rules):
                (stage / f"{stem}.png").write_bytes(png)
    screens.say("heatmaps", str(settings.out))


def draw(image: npt.NDArray[np.uint8], relevance: npt.NDArray[np.float32], title: str) -> bytes:
    """Draw an image beside its heatmap, with a colour bar centred at zero.

    Parameters
    ----------
    image
        (H, W) or (H, W, 3).
    relevance
        (H, W); the colours end at its 99th percentile of |relevance|.
    title
        Printed above.

    Returns
    -------
    bytes
        A PNG file.
    """
    finite = np.nan_to_num(relevance)
    end = float(np.quantile(np.abs(finite), 0.99)) or float(np.abs(finite).max()) or 1.0
    against, towards = (tuple(value / 255 for value in colour) for colour in (AGAINST, FOR))
    colours = LinearSegmentedColormap.from_list(
        "relevance", [(*against, 1.0), (1.0, 1.0, 1.0, 0.0), (*towards, 1.0)]
    )
    figure = Figure(figsize=(8, 3.9), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    grey = image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])
    left.imshow(image, cmap="gray", vmin=0, vmax=255)
    right.imshow(grey * 0.8, cmap="gray", vmin=0, vmax=255)
    drawn = right.imshow(finite, cmap=colours, norm=Normalize(-end, end), interpolation="nearest")
    right.set_facecolor("black")
    for axes in (left, right):
        axes.set_axis_off()
    bar = figure.colorbar(drawn, ax=right, shrink=0.8)
    bar.set_ticks([-end, 0, end], labels=["against", "0", "for"])
    figure.suptitle(title)
    buffer = io.BytesIO()
    # no software name or date: the same heatmap is the same file
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(
    network: Network,
    batch: Sequence[_Picture],
    classes: Sequence[str],
    task: Task,
    target: int | None,
    rules: str,
) -> Iterator[tuple[str, bytes]]:
    images = torch.stack([entry.prepared for entry in batch]).to(network.device)
    with frozen(network.model):
        with torch.no_grad():
            score = probabilities(logits(network.model(images)).float(), task).cpu()
        decided = score.argmax(dim=1)
        chosen = decided if target is None else torch.full_like(decided, target)
        maps = heatmaps(network.model, images, chosen.to(network.device), lrp_explainer(rules))
    for row, entry in enumerate(batch):
        cut = shown_slice(maps[row])
        image = entry.prepared if cut is None else entry.prepared[:, cut]
        relevance = maps[row] if cut is None else maps[row][cut]
        k, d = int(chosen[row]), int(decided[row])
        title = f"evidence for {classes[k]} (probability {score[row, k]:.2f})"
        if k != d:
            title += f"; predicted {classes[d]} ({score[row, d]:.2f})"
        yield entry.stem, draw(picture(image), relevance.numpy(), title)


def _open(
    settings: ExplainSettings,
) -> tuple[Network, tuple[str, ...], Iterator[list[_Picture]]]:
    """Open network and images; the images are read batch by batch."""
    device = device_named(settings.device)
    parent = open_parent(settings, device)
    classes = parent.classes if parent is not None else settings.classes
    if settings.data is not None:
        source = open_images(settings.data, classes=classes, seed=settings.seed)
        if not source.splits.get(settings.split):
            raise DebrideError(f"'{source.name}' has no {settings.split} images: give --split")
        records = source.splits[settings.split]
        per_class = -(-settings.limit // len(source.classes))
        drawn = sample(source, settings.split, per_class, seed=settings.seed)[: settings.limit]
        found = [(source.pixels(records[i]), records[i].name) for i in drawn]
        classes, spatial, channels = source.classes, source.spatial, source.channels
    else:
        assert settings.images is not None
        files = _files(settings.images)[: settings.limit]
        found = [(file, file.name) for file in files]
        spatial, channels = (1, 1), 3
        if parent is None:
            first = look(files[0])
            if first.problem is not None:
                raise DebrideError(f"cannot read the image '{files[0]}': {first.problem}")
            spatial, channels = first.spatial, first.channels
    if parent is not None:
        network = stored_network(parent, device)
        classes = parent.classes
    else:
        classes = classes or _numbered(settings, spatial, channels)
        network = open_network(settings, len(classes), spatial, channels, device)
    return network, classes, _batches(network, found, settings.show_names)


def _batches(
    network: Network,
    found: Sequence[tuple[Path | npt.NDArray[np.generic], str]],
    show_names: bool,
) -> Iterator[list[_Picture]]:
    batch: list[_Picture] = []
    for number, (image, name) in enumerate(track(found, "explaining"), start=1):
        stem = f"{number:03d}" + (f"-{Path(name).stem}" if show_names else "")
        batch.append(_Picture(network.preprocessing.read(image), stem))
        if len(batch) == BATCH or number == len(found):
            yield batch
            batch = []


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DebrideError(f"no file or folder '{path}': give --images an existing one")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DebrideError(f"no images in '{path}': give --images a folder that holds some")
    return files


def _numbered(
    settings: ExplainSettings, spatial: tuple[int, ...], channels: int
) -> tuple[str, ...]:
    """Name the classes by their numbers, as many as the weights have outputs."""
    if settings.weights is None:
        raise DebrideError(
            "without --data or a folder that Debride wrote, give --weights, and --classes "
            "in the order of the network's outputs"
        )
    guess = ModelSpec(source=settings.model, outputs=1, channels=channels, spatial=spatial)
    outputs = infer_fit(read_state(settings.weights), guess, trust=True).outputs
    return tuple(f"class {k}" for k in range(max(outputs, 2)))


def _target(name: str | None, classes: Sequence[str]) -> int | None:
    if name is None:
        return None
    if name not in classes:
        raise DebrideError(f"--target '{name}' is not a class: give one of {', '.join(classes)}")
    return list(classes).index(name)
