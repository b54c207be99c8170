"""Whether the heatmaps lie on the lesion, where masks say where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from debride.evidence.blocks import Rows, double, in_blocks, stacked
from debride.evidence.intervals import Compared, compared, means
from debride.evidence.ordering import largest
from debride.resampling import RESAMPLES, Array

LARGEST = 0.9
"""Share of the frame that a mask may cover; beyond, every heatmap would be right."""
TOP = 0.1
"""Share of the pixels that count as the most relevant."""
POINTING = 2
"""Which column of `scores` is the pointing game's."""


class Localisation(TypedDict):
    """Means over the images whose mask says something, with intervals over images."""

    images: int
    without_mask: int
    too_large: int
    """Left out: the mask covers more than 90 % of the frame."""
    undefined: int
    """Left out: nothing speaks for the class in one of the heatmaps."""
    chance: float
    """Mean share of the frame that the masks cover: what blind heatmaps would reach."""
    mass: Compared
    rank: Compared
    pointing: Compared
    top: Compared
    classes: NotRequired[list[ClassMass | None]]
    """Of each class in order; None where no image is left. Earlier evidence has none."""


class ClassMass(TypedDict):
    """Relevance mass accuracy over the images of one class."""

    images: int
    mass: Compared


def scores(maps: Tensor, masks: Tensor) -> Tensor:
    """Measure how much of what speaks for the class lies inside the masks.

    Four columns, each within 0 and 1. Relevance mass accuracy: the share of the positive
    relevance inside. Relevance rank accuracy: of as many most relevant pixels as the mask has,
    the share inside. (Both: Arras et al., Information Fusion 81, 2022, section 3.2.) Pointing game:
    whether the most relevant pixel is inside (Zhang et al., IJCV 126, 2018; without a margin).
    Top-k intersection: the share inside of the most relevant tenth of all pixels (Theiner et
    al., WACV 2022).

    Parameters
    ----------
    maps
        (B, *spatial) relevance.
    masks
        (B, *spatial), not zero inside.

    Returns
    -------
    Tensor
        (B, 4) float64; NaN where a mask is empty or no relevance is positive.

    Examples
    --------
    >>> maps = torch.tensor([[[3.0, 1.0], [0.0, -2.0]]])
    >>> scores(maps, torch.tensor([[[1, 0], [1, 0]]])).tolist()
    [[0.75, 0.5, 1.0, 1.0]]
    """
    return in_blocks(_scored, maps.flatten(1), masks.flatten(1))


def localisation(
    maps: Sequence[Tensor],
    masks: Tensor,
    strata: Sequence[int] = (),
    *,
    classes: int = 0,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Localisation | None:
    """Measure one network, or the original and the model, on the same images.

    Parameters
    ----------
    maps
        (B, *spatial) heatmaps of each network; the original's first.
    masks
        (B, *spatial) or (B, 1, *spatial); all zero where there is no mask.
    strata, classes
        The class of each image, and how many classes there are.
    seed, resamples
        Of the bootstrap over images.

    Returns
    -------
    Localisation or None
        None where no image is left.

    Examples
    --------
    >>> masks = torch.zeros(2, 4, 4)
    >>> masks[0, :2, :2] = 1
    >>> found = localisation([masks], masks)
    >>> found["images"], found["without_mask"], found["mass"]["model"]["value"]
    (1, 1, 1.0)
    """
    covered = (masks != 0).flatten(1).double().mean(dim=1)
    each = torch.stack([scores(some, masks) for some in maps])
    empty, large = covered == 0, covered > LARGEST
    undefined = each.isnan().any(dim=2).any(dim=0) & ~empty & ~large
    kept = ~(empty | large | undefined)
    if not kept.any():
        return None
    values = each[:, kept].numpy()

    def over(some: Array) -> list[Compared]:
        images, figures = some.shape[1:]
        counts = np.full(figures, np.nan)
        if figures > POINTING:  # the only one that is 0 or 1 for an image
            counts[POINTING] = images
        return compared(
            [means(each) for each in some],
            np.zeros(images, dtype=np.int64),
            counts=[counts] * len(some),
            seed=seed,
            resamples=resamples,
        )

    mass, rank, pointing, top = over(values)
    of = torch.tensor(strata)[kept] if classes else torch.empty(0)
    members = [(of == k).nonzero()[:, 0].tolist() for k in range(classes)]
    return Localisation(
        images=int(kept.sum()),
        without_mask=int(empty.sum()),
        too_large=int(large.sum()),
        undefined=int(undefined.sum()),
        chance=float(covered[kept].mean()),
        mass=mass,
        rank=rank,
        pointing=pointing,
        top=top,
        classes=[
            ClassMass(images=len(rows), mass=over(values[:, rows, :1])[0]) if rows else None
            for rows in members
        ],
    )


def _scored(rows: Rows, masks: Rows) -> Rows:
    inside = masks != 0
    size = inside.sum(1)
    counted, top = size.clip(1)[:, None], max(1, round(TOP * rows.shape[1]))
    positive = double(rows.clip(0))
    total = positive.sum(1)
    found = stacked(
        (positive * inside).sum(1) / total,
        double((largest(rows, counted) & inside).sum(1)) / counted[:, 0],
        double(inside[range(len(rows)), rows.argmax(1)]),
        double((largest(rows, top) & inside).sum(1)) / top,
    )
    found[(total <= 0) | (size == 0)] = np.nan
    return found
