"""How alike two heatmaps of one image are: five measures, each for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.evidence.blocks import Rows, dot, double, in_blocks, like
from debride.evidence.explanations import spearman, top_overlap

WINDOW = 7
"""Pixels a side of the window that structures are compared in; less where an image is smaller."""
PLACES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


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
    return in_blocks(_structure, first, second)


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
    return in_blocks(_angle, first.flatten(1), second.flatten(1))


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


def _structure(first: Rows, second: Rows) -> Rows:
    """Compare (B, *spatial) maps window by window; a mean is a sum over `count` pixels."""
    spatial = first.shape[1:]
    sides = [min(WINDOW, size) for size in spatial]
    count = float(np.prod(sides))
    unbiased = count / max(1.0, count - 1)
    c1, c2 = (count * 0.01 * 2) ** 2, (count * 0.03 * 2) ** 2 / unbiased  # values span 2
    a, b = _scaled(first), _scaled(second)
    product, squares = a * b, a * a + b * b
    a, b, product, squares = (_summed(each, spatial, sides) for each in (a, b, product, squares))
    both, own = a * b, a * a + b * b
    product *= count
    product -= both
    squares *= count
    squares -= own
    alike = (2 * both + c1) * (2 * product + c2)
    alike /= (own + c1) * (squares + c2)
    return alike @ like(alike, _inside(spatial, sides)[: alike.shape[1]])


def _inside(spatial: Sequence[int], sides: Sequence[int]) -> npt.NDArray[np.float64]:
    """Weigh the pixels where windows begin that do not leave the map: one in all."""
    inside = np.zeros(spatial)
    inside[tuple(slice(size - side + 1) for size, side in zip(spatial, sides, strict=True))] = 1
    weights: npt.NDArray[np.float64] = inside.ravel() / inside.sum()
    return weights


def _scaled(maps: Rows) -> Rows:
    """Divide each map by its largest absolute value, and make it a row."""
    rows = double(maps).reshape(len(maps), -1)
    largest = abs(rows).argmax(1)
    return rows / abs(rows[range(len(rows)), largest])[:, None]


def _summed(rows: Rows, spatial: Sequence[int], sides: Sequence[int]) -> Rows:
    """Sum the window that begins at each pixel; sums that leave the map mean nothing.

    Axis by axis, each by sums of 1, 2, 4, … neighbours. Windows run on over the edges, because
    whole rows are summed faster than their inner parts.
    """
    for axis, side in enumerate(sides):
        stride = int(np.prod(spatial[axis + 1 :]))
        length = rows.shape[1] - (side - 1) * stride
        total, done, size = None, 0, 1
        while size <= side:
            if side & size:
                part = rows[:, done * stride :][:, :length]
                total = part if total is None else total + part
                done += size
            if 2 * size <= side:
                rows = rows[:, : -size * stride] + rows[:, size * stride :]
            size *= 2
        rows = total
    return rows


def _angle(first: Rows, second: Rows) -> Rows:
    a, b = double(first), double(second)
    return (dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5).clip(-1, 1)


def _centre(maps: Tensor) -> Tensor:
    """Give (B, dimensions) the centre of mass, in pixels."""
    mass = maps.abs().double()
    total = mass.flatten(1).sum(1)
    centres = []
    for axis in range(1, maps.ndim):
        along = mass.transpose(1, axis).flatten(2).sum(2) if maps.ndim > 2 else mass
        centres.append(along @ torch.arange(along.shape[1], dtype=torch.float64) / total)
    return torch.stack(centres, dim=1)
