"""Open the network and the images to explain, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from debride import screens
from debride.data.checks import SUFFIXES, Look, is_medical, look_at_all
from debride.data.images import ImageSource, Record, open_images
from debride.data.loading import sample
from debride.data.volumes import is_nifti, look_at_volume
from debride.errors import DebrideError
from debride.models.checkpoints import infer_fit, read_state
from debride.models.spec import ModelSpec
from debride.opening import Network, device_named, open_network, open_parent, stored_network

if TYPE_CHECKING:
    from debride.settings import ExplainSettings

LIMIT = 16
"""Images of --data explained where no number is asked for."""


@dataclass(frozen=True)
class Item:
    """One image, not yet read.

    Attributes
    ----------
    source : Path or ndarray
    stem : str
        What its files are called.
    labels : tuple of str or None
        Its true classes, where they are known.
    """

    source: Path | npt.NDArray[np.generic]
    stem: str
    labels: tuple[str, ...] | None = None

    def read(self, network: Network) -> Tensor:
        """Prepare the image for the network, (C, *spatial)."""
        return network.preprocessing.read(self.source)


def open_all(settings: ExplainSettings) -> tuple[Network, tuple[str, ...], list[Item], bool]:
    """Open network and images.

    Returns
    -------
    network : Network
    classes : tuple of str
    items : list of Item
    multilabel : bool
        Whether several classes may hold together.

    Raises
    ------
    DebrideError
        When images, network and weights are not there or do not go together.
    """
    device = device_named(settings.device)
    parent = open_parent(settings, device)
    classes = parent.classes if parent is not None else settings.classes
    multilabel = parent is not None and parent.task == "multilabel"
    if settings.data is not None:
        items, source = _of_data(settings, settings.data, classes)
        classes, spatial, channels = source.classes, source.spatial, source.channels
        multilabel = multilabel or source.multilabel
    else:
        assert settings.images is not None
        files = _files(settings.images)
        shown = files[: settings.limit]
        what = f"images in {settings.images}" if settings.images.is_dir() else "image"
        screens.say("images", _counted(len(shown), len(files), what))
        stems = _stems([file.name for file in shown], settings.show_names)
        items = [Item(file, stem) for file, stem in zip(shown, stems, strict=True)]
        first = _looked_at(shown)
        spatial, channels = first.spatial, first.channels
    if parent is not None:
        return stored_network(parent, device), parent.classes, items, multilabel
    classes = classes or _numbered(settings, spatial, channels)
    network = open_network(settings, len(classes), spatial, channels, device)
    if settings.weights is None:
        screens.warn("the network has random weights: give --weights, or a folder as --model")
    return network, classes, items, multilabel


def _of_data(
    settings: ExplainSettings, data: str, classes: Sequence[str] | None
) -> tuple[list[Item], ImageSource]:
    source = open_images(data, classes=classes, seed=settings.seed)
    records = source.splits.get(settings.split)
    if not records:
        there = ", ".join(split for split, each in source.splits.items() if each)
        raise DebrideError(f"'{source.name}' has no {settings.split} images: give --split {there}")
    limit = settings.limit or LIMIT
    drawn = sample(source, settings.split, -(-limit // len(source.classes)), seed=settings.seed)
    if len(drawn) > limit:  # sorted by position: thin out, so that no class is left out
        drawn = [drawn[i * len(drawn) // limit] for i in range(limit)]
    where = f"{screens.NAMES[settings.split]} images of {source.name}"
    screens.say("images", _counted(len(drawn), len(records), where))
    chosen = [records[position] for position in drawn]
    stems = _stems([record.name for record in chosen], settings.show_names)
    items = [
        Item(source.pixels(record), stem, _labels(record, source.classes))
        for record, stem in zip(chosen, stems, strict=True)
    ]
    return items, source


def _counted(shown: int, total: int, where: str) -> str:
    return f"{shown} {where}" if shown == total else f"{shown} of {total} {where}; see --limit"


def _labels(record: Record, classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(record.label, int):
        return (classes[record.label],)
    return tuple(name for name, given in zip(classes, record.label, strict=True) if given)


def _stems(names: Sequence[str], shown: bool) -> list[str]:
    """Number the images, and name them where names may be shown."""
    width = max(3, len(str(len(names))))
    return [
        f"{number:0{width}d}" + (f"-{Path(name.removesuffix('.gz')).stem}" if shown else "")
        for number, name in enumerate(names, 1)
    ]


def _looked_at(files: Sequence[Path]) -> Look:
    """Look at all files before any work; return what the first one is."""
    plain = [file for file in files if not is_nifti(file)]
    looks = look_at_all(plain)
    for file, found in zip(plain, looks, strict=True):
        if found.problem is not None:
            bad = sum(each.problem is not None for each in looks)
            more = f" ({bad} such files)" if bad > 1 else ""
            raise DebrideError(
                f"cannot read the image '{file}'{more}: {found.problem}; mend it or take it out"
            )
    volumes = [look_at_volume(file) for file in files if is_nifti(file)]
    return volumes[0] if is_nifti(files[0]) else looks[0]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DebrideError(f"no file or folder '{path}': give --images an existing one")
    inside = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    files = [file for file in inside if file.suffix.lower() in SUFFIXES or is_nifti(file)]
    if files:
        return files
    if any(is_medical(file) for file in inside if file.is_file()):
        raise DebrideError(
            f"'{path}' holds DICOM files or alike, which this version does not read: export the "
            "images as PNG, volumes as NIfTI"
        )
    if any(file.is_dir() for file in inside):
        raise DebrideError(
            f"no images in '{path}' itself, only folders: give --images one of them, or --data "
            "with train|val|test/CLASS"
        )
    raise DebrideError(f"no images in '{path}': give --images a folder that holds some")


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
