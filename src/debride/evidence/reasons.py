"""Whether the reasons stayed: heatmaps before and after, beside a yardstick for what is much.

A rank correlation of 0.8 says little alone. So the original's heatmaps are also compared with its
own under input noise, which nobody would call another reason, and, where a second training of
the same network is at hand, with that one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.evidence.explanations import Explainer, heatmaps
from debride.evidence.faithfulness import STEPS, FaithfulnessPair, faithfulness
from debride.evidence.likeness import Quantiles, compare, is_flat, quantiles
from debride.evidence.state import at_once
from debride.models.outputs import Task
from debride.progress import track

NOISE = (0.05, 0.2)
"""Standard deviations of the yardstick's noise, in those of the images, channel by channel.

Grey values of medical images spread over about a quarter of their range: this is about 1 % and
5 % of the range, an ordinary and a poor detector.
"""
AGREE = 0.7
"""Rank correlation from which on two heatmaps agree, however little noise moves them."""
LEAST = 10
"""Images of a class below which nothing is said of the class alone."""
FAITHFUL = 64
"""Images whose faithfulness is measured, at most: it takes dozens of passes for each."""


class Likeness(TypedDict):
    """How alike two heatmaps are, image by image, by the names of `likeness.MEASURES`.

    `spearman`, `ssim`, `cosine` and `top10_iou` are 1 for equal maps; `centre_shift` is 0.
    """

    values: dict[str, list[float | None]]
    """In the order of `Reasons.indices`; None where a map is the same everywhere."""
    quantiles: dict[str, Quantiles | None]
    """Over the images; None where no image has a value."""


class Yardstick(TypedDict):
    """The original's heatmaps beside others that should be as good: what the measures give then."""

    kind: Literal["noise", "training"]
    """Its own under input noise, or those of a second training of the same network."""
    level: float | None
    """Standard deviation of the noise, in those of the images; None for a training."""
    likeness: Likeness
    beyond: dict[str, float | None]
    """Share of the images that pruning moved further than all but 5 % of the yardstick's.

    By measure: the share of before-and-after values worse than the yardstick's 5th percentile
    (95th for `centre_shift`), of rank correlations only those below `AGREE`. About 0.05 if
    pruning does no more than the yardstick; None without an original.
    """
    classes: NotRequired[dict[str, list[float | None]]]
    """`beyond` of each class in order, its images beside the yardstick's of the same class.

    None where a class has fewer than 10 images with a value. Earlier evidence has none.
    """


class Reasons(TypedDict):
    """What one explanation method says of a sample of images, before and after."""

    method: str
    rules: str | None
    """For LRP."""
    images: int
    indices: list[int]
    """Position of each image in the split."""
    strata: list[int]
    """Class of each image (of several, its first)."""
    undefined: int
    """Images of which a heatmap, before or after, is the same everywhere."""
    likeness: Likeness | None
    """Before and after; None without an original."""
    classes: dict[str, list[Quantiles | None]] | None
    """The quantiles of `likeness`, by measure, for each class in order."""
    yardsticks: list[Yardstick]
    """Noise from weak to strong, then the second training; of the model without an original."""
    faithfulness: FaithfulnessPair | None


def measure_reasons(
    networks: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    explainers: Mapping[str, Explainer],
    *,
    task: Task,
    indices: Sequence[int],
    strata: Sequence[int],
    classes: int,
    second: nn.Module | None = None,
    rules: str | None = None,
    known: Mapping[str, Sequence[Tensor]] | None = None,
    seed: int = 0,
) -> dict[str, Reasons]:
    """Explain images with every method, and hold what changed against the yardsticks.

    Parameters
    ----------
    networks
        The model, or the original and the model; in evaluation mode.
    images
        (B, C, *spatial), on the networks' device.
    targets
        (B,) the class explained in all heatmaps of an image: the original's most likely one.
    explainers
        What makes the heatmaps, by the names of the methods.
    task, indices, strata, classes
        What is decided; of each image its position and class; how many classes there are.
    second
        A second training of the original, for a yardstick of its own.
    rules
        LRP's rule set.
    known
        Heatmaps of the images that are there already: by method, of each network.
    seed
        Of the noise.

    Returns
    -------
    dict
        By method.

    Examples
    --------
    >>> from debride.evidence.explanations import lrp_explainer
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval().requires_grad_(False)
    >>> images, targets = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    >>> found = measure_reasons(
    ...     [net, net], images, targets, {"lrp": lrp_explainer("epsilon")}, task="multiclass",
    ...     indices=range(4), strata=[0, 1, 0, 1], classes=2,
    ... )
    >>> round(found["lrp"]["likeness"]["quantiles"]["spearman"]["mean"], 6)
    1.0
    """
    spread = images.std([0, *range(2, images.ndim)], keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    noisy = [images + level * spread * noise for level in NOISE]
    original = networks[0]
    found: dict[str, Reasons] = {}
    for method, explain in track(explainers.items(), "comparing the reasons", len(explainers)):

        def maps_of(
            network: nn.Module, some: Tensor = images, explain: Explainer = explain
        ) -> Tensor:
            return heatmaps(network, some, targets, explain, batch_size=at_once(network, some))

        there = (known or {}).get(method) or [maps_of(network) for network in networks]
        before, after = there[0], there[-1]
        likeness = compare(before, after) if len(networks) == 2 else None
        yardsticks = [
            _yardstick(compare(before, maps_of(original, some)), likeness, strata, classes, level)
            for level, some in zip(NOISE, noisy, strict=True)
        ]
        if second is not None:
            yardsticks.append(
                _yardstick(compare(before, maps_of(second)), likeness, strata, classes)
            )
        found[method] = Reasons(
            method=method,
            rules=rules if method == "lrp" else None,
            images=len(images),
            indices=list(indices),
            strata=list(strata),
            undefined=int((is_flat(before) | is_flat(after)).sum()),
            likeness=None if likeness is None else _told(likeness),
            classes=None if likeness is None else _by_class(likeness, strata, classes),
            yardsticks=yardsticks,
            faithfulness=_faithful(networks, images, [before, after], targets, task),
        )
    return found


def _told(measured: Mapping[str, Tensor]) -> Likeness:
    return Likeness(
        values={
            name: [None if value != value else value for value in values.tolist()]
            for name, values in measured.items()
        },
        quantiles={name: quantiles(values) for name, values in measured.items()},
    )


def _by_class(
    measured: Mapping[str, Tensor], strata: Sequence[int], classes: int
) -> dict[str, list[Quantiles | None]]:
    of = torch.tensor(strata)
    return {
        name: [quantiles(values[of == k]) for k in range(classes)]
        for name, values in measured.items()
    }


def _yardstick(
    measured: Mapping[str, Tensor],
    likeness: Mapping[str, Tensor] | None,
    strata: Sequence[int],
    classes: int,
    level: float | None = None,
) -> Yardstick:
    of, moved = torch.tensor(strata), likeness or {}
    return Yardstick(
        kind="training" if level is None else "noise",
        level=level,
        likeness=_told(measured),
        beyond={name: _beyond(name, values, measured[name]) for name, values in moved.items()},
        classes={
            name: [
                _beyond(name, values[of == k], measured[name][of == k], LEAST)
                for k in range(classes)
            ]
            for name, values in moved.items()
        },
    )


def _beyond(name: str, moved: Tensor, measured: Tensor, least: int = 1) -> float | None:
    """Give the share of the images that moved further than all but 5 % of the yardstick's.

    Where noise moves next to nothing, everything is further: heatmaps that agree do not count.
    """
    limit, known = quantiles(measured), moved[~moved.isnan()]
    if limit is None or min(len(known), limit["images"]) < least:
        return None
    if name == "centre_shift":
        return float((known > limit["q95"]).double().mean())
    least_alike = min(limit["q05"], AGREE) if name == "spearman" else limit["q05"]
    return float((known < least_alike).double().mean())


def _faithful(
    networks: Sequence[nn.Module],
    images: Tensor,
    maps: Sequence[Tensor],
    targets: Tensor,
    task: Task,
) -> FaithfulnessPair:
    """Measure the first images: they are one of each class in turn."""
    some = slice(0, FAITHFUL)
    measured = [
        faithfulness(network, images[some], each[some], targets[some], task)
        for network, each in zip(networks, maps, strict=False)
    ]
    return FaithfulnessPair(
        images=len(images[some]),
        steps=STEPS,
        original=measured[0] if len(networks) == 2 else None,
        model=measured[-1],
    )
