"""Whether a network stands what happens to images in clinics, and its reasons too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.evidence.corruptions import Corruption, corruptions
from debride.evidence.explanations import Explainer, heatmaps, spearman
from debride.evidence.state import at_once
from debride.evidence.task import Labels, performance
from debride.models.outputs import Task, probable
from debride.progress import track

EXPLAINED = 16
"""Images whose heatmaps are compared with those of the clean images, at most."""


class Curve(TypedDict):
    """One network under one corruption, from mild to severe."""

    balanced_accuracy: list[float]
    drift: list[float]
    """1 − mean rank correlation with the heatmaps of the clean images, by the same network."""


class CorruptionCurves(TypedDict):
    """Both networks under one corruption."""

    levels: list[float]
    unit: str
    original: Curve | None
    model: Curve


class Robustness(TypedDict):
    """Accuracy and heatmaps of both networks under corruptions, on the same changed images."""

    images: int
    explained: int
    method: str
    """What made the heatmaps."""
    scale: str
    """How black and white are known."""
    clean_original: float | None
    """Balanced accuracy on these images as they are."""
    clean_model: float
    corruptions: dict[str, CorruptionCurves]
    left_out: dict[str, str]
    """Corruptions that make no sense for these images, and why."""


@dataclass(frozen=True)
class Scale:
    """How prepared images become pixels within 0 (black) and 1 (white), and back.

    Attributes
    ----------
    mean, std : tuple of float
        One number, or one a channel: pixel = value · std + mean.
    known : str
        Where they are from.

    Examples
    --------
    >>> scale = Scale((0.5,), (0.25,))
    >>> scale.pixels(torch.zeros(1, 1, 1)).item(), scale.values(torch.ones(1, 1, 1)).item()
    (0.5, 2.0)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    known: str = "mean and std of the preparation"

    @classmethod
    def seen_in(cls, images: Tensor) -> Scale:
        """Take the least and the greatest value of each channel as black and white."""
        channels = images.transpose(0, 1).flatten(1)
        low, high = channels.amin(1), channels.amax(1)
        spread = torch.where(high > low, high - low, 1.0)
        return cls(
            tuple((-low / spread).tolist()),
            tuple((1 / spread).tolist()),
            "least and greatest values of the images",
        )

    def pixels(self, images: Tensor) -> Tensor:
        """Undo the preparation."""
        mean, std = self._shaped(images)
        return images * std + mean

    def values(self, pixels: Tensor) -> Tensor:
        """Prepare pixels, cut off below 0 and above 1."""
        mean, std = self._shaped(pixels)
        return (pixels.clamp(0, 1) - mean) / std

    def _shaped(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (images.ndim - 2))
        mean, std = (torch.tensor(given).to(images) for given in (self.mean, self.std))
        return mean.reshape(shape), std.reshape(shape)


def measure_robustness(
    networks: Sequence[nn.Module],
    images: Tensor,
    labels: Labels,
    targets: Tensor,
    explain: Explainer | None,
    *,
    task: Task,
    classes: Sequence[str],
    scale: Scale | None = None,
    method: str = "custom",
    explained: int = EXPLAINED,
    seed: int = 0,
) -> Robustness:
    """Measure networks on images that are changed in every registered way.

    Both networks see the same changed images. Where places move (rotation), the clean heatmap is
    moved alike before the two are compared; a heatmap that went flat counts as unrelated.

    Parameters
    ----------
    networks
        The model, or the original and the model; in evaluation mode.
    images
        (B, C, *spatial), prepared, on the networks' device.
    labels
        (B,) class indices, or (B, K) of 0 and 1 for multi-label tasks.
    targets
        (B,) the class explained.
    explain
        What makes the heatmaps; None for accuracy alone.
    scale
        How to get at pixels; by default the range of values seen in `images` is taken for that
        from black to white.
    explained
        So many of the first images are explained.
    seed
        Of the noise.

    Returns
    -------
    Robustness
        Curves by corruption; and which were left out, and why.

    Examples
    --------
    >>> net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(1, 2)).eval()
    >>> net[2].weight.data, net[2].bias.data = torch.tensor([[0.0], [1]]), torch.tensor([0.5, 0])
    >>> images = torch.tensor([0.25, 0.9]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)  # dark, bright
    >>> labels = torch.tensor([0, 1])
    >>> found = measure_robustness(
    ...     [net], images, labels.numpy(), labels, None, task="multiclass",
    ...     classes=("dark", "bright"), scale=Scale((0.0,), (1.0,)),
    ... )
    >>> found["corruptions"]["brightness"]["model"]["balanced_accuracy"]
    [1.0, 1.0, 1.0, 1.0, 0.5]
    """
    scale = scale or Scale.seen_in(images)
    volumes = images.ndim == 5
    known = corruptions()
    left_out = {each.name: each.volumes for each in known if volumes and each.volumes}
    if images.shape[1] not in (1, 3):
        left_out["jpeg"] = f"JPEG files hold 1 or 3 channels, not {images.shape[1]}"
    used = [each for each in known if each.name not in left_out]
    some = slice(0, explained if explain is not None else 0)
    batches = [at_once(network, images, most=64) for network in networks]
    names = tuple(classes)

    def heat(which: int, changed: Tensor) -> Tensor:
        assert explain is not None
        given = changed[some]
        return heatmaps(networks[which], given, targets[some], explain, batch_size=batches[which])

    def accuracy(which: int, changed: Tensor) -> float:
        parts = torch.split(changed, batches[which])
        outcome = torch.cat([probable(networks[which], part, task) for part in parts]).numpy()
        return performance(outcome, labels, task, names, "")["balanced_accuracy"]

    order = range(len(networks))
    clean = [accuracy(which, images) for which in order]
    maps = [heat(which, images) for which in order] if explain is not None else []
    pixels = scale.pixels(images)
    found: dict[str, CorruptionCurves] = {}
    for corruption in track(used, "changing images as clinics do"):
        curves = [Curve(balanced_accuracy=[], drift=[]) for _ in networks]
        for severity, level in enumerate(corruption.levels):
            generator = torch.Generator().manual_seed(seed + severity)
            changed = scale.values(corruption.apply(pixels, level, generator))
            for which in order:
                curves[which]["balanced_accuracy"].append(accuracy(which, changed))
                if explain is not None:
                    moved = _moved(corruption, maps[which], level, generator)
                    alike = spearman(moved, heat(which, changed)).nan_to_num(0.0)
                    curves[which]["drift"].append(1 - float(alike.mean()))
        found[corruption.name] = CorruptionCurves(
            levels=list(corruption.levels),
            unit=corruption.unit,
            original=curves[0] if len(networks) == 2 else None,
            model=curves[-1],
        )
    return Robustness(
        images=len(images),
        explained=len(images[some]),
        method=method,
        scale=scale.known,
        clean_original=clean[0] if len(networks) == 2 else None,
        clean_model=clean[-1],
        corruptions=found,
        left_out=left_out,
    )


def _moved(
    corruption: Corruption, maps: Tensor, level: float, generator: torch.Generator
) -> Tensor:
    if not corruption.moves:
        return maps
    return corruption.apply(maps[:, None], level, generator)[:, 0]
