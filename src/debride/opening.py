"""Open the network, its images and their preparation together, as every command needs them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from debride.artifact.bundle import Bundle, read_bundle
from debride.data.images import ImageSource, open_images
from debride.data.loading import loader
from debride.data.preprocessing import Preprocessing, check_size, measure_normalisation
from debride.errors import DebrideError
from debride.models.checkpoints import infer_fit, load_state, read_state
from debride.models.outputs import Task, logits, task_of
from debride.models.plain import check_plain
from debride.models.spec import ModelSpec, build
from debride.models.state import undisturbed
from debride.reference import Chosen, choose
from debride.relevance.rules import RuleSet, bounds_for, rule_set

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from debride.settings import DataSettings, NetworkSettings

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LARGEST = {2: 224, 3: 96}
"""Image size taken by default where the stored images are larger, by spatial dimensions."""
RECALIBRATION = 1024
"""Training images that batch-norm statistics are measured on, at most."""
EXPLAINED_PIXELS = 8 * 224 * 224
"""Pixels explained at once: a relevance pass keeps every activation, 2 GB of ResNet-50's."""


RANDOM = "random weights"


@dataclass(frozen=True)
class Network:
    """A network that is ready to run, and how its images are prepared."""

    model: nn.Module
    spec: ModelSpec | None
    preprocessing: Preprocessing
    how: str
    """Where mean and standard deviation come from, in words."""
    weights: str
    """Where the weights come from, in words."""
    device: torch.device
    parent: Bundle | None = None
    """The folder it was opened from, if any."""

    def rules(self, name: str) -> RuleSet:
        """Make a rule set of heatmaps; one that has bounds of the pixels gets black and white."""
        return rule_set(name, **bounds_for(name, *self.preprocessing.black_and_white()))


@dataclass(frozen=True)
class Job:
    """A network together with labelled images."""

    network: Network
    source: ImageSource
    task: Task
    batch_size: int
    seed: int

    def batches(self, split: str, **choices: Any) -> DataLoader[Any]:
        """Give the prepared batches of a split."""
        choices = {"batch_size": self.batch_size, "seed": self.seed, **choices}
        return loader(self.source, split, self.network.preprocessing, **choices)

    def measured(self, split: str) -> DataLoader[Any]:
        """Give the prepared batches of a split, with masks where there are some."""
        records = self.source.splits[split]
        return self.batches(split, masks=any(record.mask is not None for record in records))

    def columns(self, split: str) -> dict[str, list[str]]:
        """Give what the index says of each image of a split, by column."""
        records = self.source.splits[split]
        names = dict.fromkeys(name for record in records for name in record.columns)
        return {name: [record.columns.get(name, "") for record in records] for name in names}

    def choose(self, per_class: int, **choices: Any) -> Chosen:
        """Choose the training images that scores are computed on; see `debride.reference`."""
        records = self.source.splits["train"]
        return choose(
            self.network.model,
            self.batches("train"),
            per_class,
            task=self.task,
            classes=self.source.classes,
            labels=[record.label for record in records],
            groups=[record.group for record in records],
            seed=self.seed,
            device=self.network.device,
            **choices,
        )

    def reference(self, chosen: Chosen) -> DataLoader[Any]:
        """Give the sample of training images that scores are computed on."""
        fitting = EXPLAINED_PIXELS // math.prod(self.network.preprocessing.spatial)
        size = min(self.batch_size, max(1, fitting))
        return self.batches("train", indices=chosen.indices, batch_size=size)

    def recalibration(self) -> DataLoader[Any]:
        """Give up to 1024 training images, drawn at random."""
        count = len(self.source.splits["train"])
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(count, generator=generator)[:RECALIBRATION]
        return self.batches("train", indices=drawn.tolist())

    @property
    def final_split(self) -> str:
        """The split that results are reported on: test, or validation where there is no test."""
        return "test" if self.source.splits.get("test") else "val"


def open_job(settings: Any, *, fresh: bool = False) -> Job:
    """Open what `settings` (network and data settings) name.

    Parameters
    ----------
    settings
        Settings of a command.
    fresh
        The network is to be trained: without --mean and --std they are measured on the images.

    Raises
    ------
    DebrideError
        When images, network and weights are not there or do not go together.
    """
    device = device_named(settings.device)
    parent = open_parent(settings, device)
    if parent is not None:
        source = _same_data(settings, parent)
        network = stored_network(parent, device)
    else:
        source = open_data(settings, settings.classes)
        outputs = len(source.classes)
        network = open_network(settings, outputs, source.spatial, source.channels, device)
        if fresh and settings.mean is None and settings.weights is None:
            network = _normalised(network, source, settings.seed)
    outputs = network.spec.outputs if network.spec else len(source.classes)
    task = task_of(outputs, len(source.classes), source.multilabel)
    return Job(network, source, task, settings.batch_size, settings.seed)


def open_data(settings: DataSettings, classes: Sequence[str] | None) -> ImageSource:
    """Open the images that `settings` name, with the classes in the given order."""
    return open_images(
        settings.data,
        classes=classes,
        skip_bad=settings.skip_bad,
        validation=settings.validation,
        seed=settings.seed,
    )


def drawn_by(run: Mapping[str, Any]) -> tuple[float, int] | None:
    """Return the share and seed that the validation images of a run were drawn with.

    Examples
    --------
    >>> drawn_by({"settings": {"validation": 0.2, "seed": 3}})
    (0.2, 3)
    """
    settings, data = (run.get(name) or {} for name in ("settings", "data"))
    # runs of earlier versions drew by their own settings
    drawn = data.get("drawn", (settings.get("validation"), settings.get("seed")))
    try:
        share, seed = drawn
        return float(share), int(seed)
    except (TypeError, ValueError):
        return None


def _same_data(settings: DataSettings, parent: Bundle) -> ImageSource:
    """Open the images; if `parent` was made of the same ones, it says which are for validation."""
    drawn = drawn_by(parent.run)
    if drawn is not None and drawn != (settings.validation, settings.seed):
        share, seed = drawn
        again = settings.model_copy(update={"validation": share, "seed": seed})
        source = open_data(again, parent.classes)
        if source.drawn and source.fingerprint() == (parent.run.get("data") or {}).get("sha256"):
            note = f"They are those that '{parent.folder}' was made with."
            return dataclasses.replace(source, notes=(*source.notes, note))
    return open_data(settings, parent.classes)


def open_parent(settings: NetworkSettings, device: torch.device) -> Bundle | None:
    """Open --model where it is a folder; None where it is the name of a network."""
    if not settings.model.strip():
        raise DebrideError("--model is empty: give the name of a network or a folder")
    folder = Path(settings.model)
    if not folder.is_dir():
        if folder.is_file():
            raise DebrideError(
                f"'{folder}' is a file: give --model the folder of a run, or the name of a network "
                "and this file as --weights"
            )
        if "/" in settings.model or settings.model in (".", ".."):
            raise DebrideError(
                f"no folder '{folder}': give --model a folder that debride train or prune wrote"
            )
        return None
    stored = ("weights", "image_size", "resize", "crop", "channels", "mean", "std", "classes")
    for name in stored:
        if getattr(settings, name, None) is not None:
            flag = "--" + name.replace("_", "-")
            raise DebrideError(f"{flag} is stored in '{folder}' and cannot be given again")
    return read_bundle(folder, trust=settings.trust, device=device)


def stored_network(parent: Bundle, device: torch.device) -> Network:
    """Give the network of a folder, with the preparation that is stored beside it.

    Raises
    ------
    DebrideError
        For a network that was saved from Python without its preparation.
    """
    if parent.preprocessing is None:
        raise DebrideError(
            f"'{parent.folder}' does not say how images are prepared: use it from Python"
        )
    return Network(
        parent.model,
        parent.spec,
        parent.preprocessing,
        f"stored in {parent.folder}",
        f"weights of {parent.folder}",
        device,
        parent,
    )


def open_network(
    settings: NetworkSettings,
    outputs: int,
    spatial: tuple[int, ...],
    channels: int,
    device: torch.device,
) -> Network:
    """Build the network that --model names, with --weights, for images of that size."""
    spatial = _seen_size(settings, spatial)
    check_size(spatial)
    spec = ModelSpec(
        source=settings.model,
        outputs=outputs,
        channels=settings.channels or channels,
        spatial=spatial,
    )
    state = None
    if settings.weights is not None:
        state = read_state(settings.weights)
        found = infer_fit(state, spec, trust=True)
        if settings.channels is not None and found.channels != settings.channels:
            raise DebrideError(
                f"'{settings.weights}' is for images of {found.channels} channels: "
                f"leave --channels out or give {found.channels}"
            )
        spec = found
    # the user typed the name of the function that runs: that is the permission
    model = build(spec, device="cpu", trust=True)
    if state is not None:
        load_state(model, state, where=f"'{settings.weights}'")
    spec = spec.model_copy(update={"outputs": _outputs_of(model, spec)})
    mean, std, how = _normalisation(settings, spec.channels)
    preprocessing = Preprocessing(
        spatial=spatial,
        channels=spec.channels,
        mean=mean,
        std=std,
        resize=settings.resize,
        crop=settings.crop,
    )
    weights = RANDOM if state is None else f"weights of {settings.weights}"
    return Network(model.to(device), spec, preprocessing, how, weights, device)


def _outputs_of(model: nn.Module, spec: ModelSpec) -> int:
    """Run one blank image through a network and count the logits that come out.

    Raises
    ------
    DebrideError
        Where the network cannot be looked into, or does not run on images of that size.
    """
    blank = torch.zeros(1, spec.channels, *spec.spatial)
    with undisturbed(model), torch.no_grad():
        model.eval()
        try:
            check_plain(model, blank)
            output = model(blank)
        except DebrideError:
            raise
        except Exception as error:  # whatever a stranger's network raises
            size = "×".join(str(length) for length in spec.spatial)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DebrideError(
                f"{spec.source} does not run on images of {size} pixels and {spec.channels} "
                f"channels ({reason}): give another --image-size or --channels"
            ) from error
        return int(logits(output).shape[1])


def _seen_size(settings: NetworkSettings, stored: tuple[int, ...]) -> tuple[int, ...]:
    dimensions = len(stored)
    if settings.image_size is not None:
        size = settings.image_size
        if len(size) == 1:
            return size * dimensions
        if len(size) != dimensions:
            raise DebrideError(
                f"--image-size has {len(size)} numbers and the images have {dimensions} "
                "dimensions: give one number, or one per dimension"
            )
        return size
    square = settings.crop or settings.resize
    if square is not None:
        return (square,) * dimensions
    return tuple(min(size, LARGEST[dimensions]) for size in stored)


def _normalisation(
    settings: NetworkSettings, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    if settings.mean is None or settings.std is None:
        if channels == 3:
            return *IMAGENET, "ImageNet's, as no --mean and --std are given"
        return (0.5,), (0.5,), "by default, as no --mean and --std are given"
    if len(settings.mean) not in (1, channels):
        raise DebrideError(
            f"--mean has {len(settings.mean)} numbers and the network takes {channels} "
            f"channel{'s' * (channels > 1)}: give one number, or one per channel"
        )
    return settings.mean, settings.std, "as given"


def _normalised(network: Network, source: ImageSource, seed: int) -> Network:
    before = network.preprocessing
    mean, std = measure_normalisation(source, before.spatial, before.channels, seed=seed)
    preprocessing = before.model_copy(update={"mean": tuple(mean), "std": tuple(std)})
    how = "measured on the training images"
    return dataclasses.replace(network, preprocessing=preprocessing, how=how)


def device_named(name: str) -> torch.device:
    """Turn --device into a device that is there.

    Examples
    --------
    >>> device_named("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DebrideError(
            f"no device '{name}' here: give --device cpu, or leave it out to take what there is"
        ) from error
    if device.type == "meta":
        raise DebrideError("nothing can be computed on the device 'meta': give --device cpu")
    return device
