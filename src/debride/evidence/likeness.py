"""How alike two heatmaps of one image are: five measures, each for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.evidence.explanations import spearman, top_overlap

WINDOW = 7
"""Pixels a side of the window that structures are compared in; less where an image is smaller."""
PLACES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Quantiles(TypedDict):
    """How a figure is spread over images; those for which it is not defined are left out."""

    images: int
    mean: float
    q05: float
    q10: float
    q25: float
    q50: float
    q75: float
    q90: float
    q95: float


def quantiles(values: Tensor) -> Quantiles | None:
    """Sum up (B,) values without those that are NaN; None if none is left.

    Examples
    --------
    >>> found = quantiles(torch.tensor([1.0, 2.0, torch.nan, 3.0]))
    >>> found["images"], found["q50"], found["q10"]
    (3, 2.0, 1.2)
    """
    array = values[~values.isnan()].double().numpy()
    if not len(array):
        return None
    q05, q10, q25, q50, q75, q90, q95 = (float(cut) for cut in np.quantile(array, PLACES))
    return Quantiles(
        images=len(array), mean=float(array.mean()),
        q05=q05, q10=q10, q25=q25, q50=q50, q75=q75, q90=q90, q95=q95,
    )  # fmt: skip


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Compare the structure of each pair of maps, window by window (Wang et al. 2004).

    Each map is divided by its largest absolute value, as relevance has no unit, so that values
    lie within −1 and 1. Windows are uniform, of `WINDOW` pixels a side, and lie inside the map;
    variances are unbiased; constants are those of the paper.

    Parameters
    ----------
    first, second
        (B, *spatial), of one to three dimensions.

    Returns
    -------
    Tensor
        (B,) float64 within −1 and 1; NaN where a map is zero everywhere.

    Examples
    --------
    >>> a = torch.arange(64.0).reshape(1, 8, 8)
    >>> ssim(a, 2 * a)
    tensor([1.], dtype=torch.float64)
    """
    a, b = (maps.double() / _largest(maps).double() for maps in (first, second))
    spatial = a.shape[1:]
    side = [min(WINDOW, size) for size in spatial]
    count = int(np.prod(side))
    moments = torch.stack([a, b, a * a, b * b, a * b], dim=1)
    mean_a, mean_b, aa, bb, ab = POOLS[len(spatial)](moments, side, stride=1).unbind(1)
    unbiased = count / (count - 1) if count > 1 else 1.0
    var_a, var_b = unbiased * (aa - mean_a**2), unbiased * (bb - mean_b**2)
    shared = unbiased * (ab - mean_a * mean_b)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # values span 2
    alike = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
    return (alike / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).flatten(1).mean(1)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Give the cosine of the angle between each pair of maps, taken as vectors.

    Parameters
    ----------
    first, second
        (B, *spatial).

    Returns
    -------
    Tensor
        (B,) float64 within −1 and 1; NaN where a map is zero everywhere.

    Examples
    --------
    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.7071], dtype=torch.float64)
    """
    a, b = first.flatten(1).double(), second.flatten(1).double()
    lengths = (a.square().sum(1) * b.square().sum(1)).sqrt()
    return ((a * b).sum(1) / lengths).clamp(-1, 1)


def top_iou(first: Tensor, second: Tensor, share: float = 0.1) -> Tensor:
    """Give the intersection over the union of the most relevant pixels of each pair of maps.

    By chance it would be about share / (2 − share): 0.05 for a tenth.

    Parameters
    ----------
    first, second
        (B, *spatial).
    share
        Which part of the pixels counts as the top.

    Returns
    -------
    Tensor
        (B,) float64 within 0 and 1.

    Examples
    --------
    >>> a = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    >>> top_iou(a, torch.tensor([[4.0, 1.0, 3.0, 2.0]]), share=0.5)
    tensor([0.3333], dtype=torch.float64)
    """
    overlap = top_overlap(first, second, share)  # both tops are of one size
    return overlap / (2 - overlap)


def centre_shift(first: Tensor, second: Tensor) -> Tensor:
    """Give how far the centre of mass of |relevance| moved, as a share of the image's diagonal.

    Parameters
    ----------
    first, second
        (B, *spatial).

    Returns
    -------
    Tensor
        (B,) float64 within 0 and 1; NaN where a map is zero everywhere.

    Examples
    --------
    >>> a, b = torch.zeros(2, 1, 4, 3)
    >>> a[0, 0, 0] = b[0, 2, 0] = 1.0
    >>> centre_shift(a, b)  # two pixels of a diagonal of five
    tensor([0.4000], dtype=torch.float64)
    """
    moved = _centre(first) - _centre(second)
    diagonal = float(np.linalg.norm(first.shape[1:]))
    return moved.square().sum(1).sqrt() / diagonal


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": spearman,
    "ssim": ssim,
    "cosine": cosine,
    "top10_iou": top_iou,
    "centre_shift": centre_shift,
}
"""All are 1 for equal maps but for `centre_shift`, which is 0."""


def compare(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Measure how alike each pair of maps is.

    Parameters
    ----------
    first, second
        (B, *spatial).

    Returns
    -------
    dict
        By the names of `MEASURES`, (B,) float64; all NaN where a map is the same everywhere.

    Examples
    --------
    >>> maps = torch.arange(64.0).reshape(1, 8, 8)
    >>> [round(value.item(), 6) for value in compare(maps, maps).values()]
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    flat = is_flat(first) | is_flat(second)
    return {
        name: torch.where(flat, torch.nan, measure(first, second))
        for name, measure in MEASURES.items()
    }


def is_flat(maps: Tensor) -> Tensor:
    """Tell (B,) which maps are the same everywhere."""
    flat = maps.flatten(1)
    return flat.amax(1) == flat.amin(1)


def _largest(maps: Tensor) -> Tensor:
    return maps.flatten(1).abs().amax(1).reshape(-1, *[1] * (maps.ndim - 1))


def _centre(maps: Tensor) -> Tensor:
    """Give (B, dimensions) the centre of mass, in pixels."""
    mass = maps.abs().double()
    total = mass.flatten(1).sum(1)
    centres = []
    for axis in range(1, maps.ndim):
        along = mass.transpose(1, axis).flatten(2).sum(2) if maps.ndim > 2 else mass
        centres.append(along @ torch.arange(along.shape[1], dtype=torch.float64) / total)
    return torch.stack(centres, dim=1)
