"""The order of the pixels of heatmaps: ranks, and which are the most relevant."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from debride.evidence.blocks import Rows, in_blocks

Array = npt.NDArray[Any]
LOW = np.uint64(0xFFFFFFFF)


def ranks(maps: Tensor) -> Tensor:
    """Rank the values of every map from 1 up, ties sharing their mean rank.

    Parameters
    ----------
    maps
        (B, *spatial).

    Returns
    -------
    Tensor
        (B, N) float64, N values a map.

    Examples
    --------
    >>> ranks(torch.tensor([[10.0, 30.0, 10.0, 20.0]]))
    tensor([[1.5000, 4.0000, 1.5000, 3.0000]], dtype=torch.float64)
    """
    return in_blocks(ranked, maps.flatten(1))


def places(maps: Tensor) -> Tensor:
    """Number the values of every map from 0 up; of equal ones the first comes first.

    Parameters
    ----------
    maps
        (B, *spatial).

    Returns
    -------
    Tensor
        (B, N) int64, N values a map.

    Examples
    --------
    >>> places(torch.tensor([[10.0, 30.0, 10.0, 20.0]]))
    tensor([[0, 3, 1, 2]])
    """
    return in_blocks(_placed, maps.flatten(1))


def largest(rows: Rows, count: Any) -> Rows:
    """Mark the most relevant values of every row; of equal ones the first.

    Parameters
    ----------
    rows
        (B, N) array or tensor.
    count
        How many, at least one: a number, or (B, 1), of each row.

    Returns
    -------
    array or tensor
        (B, N) of bool.

    Examples
    --------
    >>> largest(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), 2)
    tensor([[ True, False,  True, False]])
    """
    limit = _least(rows, count)
    marked = rows >= limit
    if (marked.sum(1)[:, None] == count).all():
        return marked
    above, equal = rows > limit, rows == limit
    return above | (equal & (equal.cumsum(1) <= count - above.sum(1)[:, None]))


def ranked(rows: Rows) -> Rows:
    """Give the `ranks` of (B, N) rows that are an array or a tensor."""
    if isinstance(rows, Tensor):
        return _ranked_tensor(rows)
    order, equal = _ordered(rows)
    shared = np.arange(1.0, rows.shape[1] + 1)
    tied = np.flatnonzero(equal)
    if len(tied):
        shared = np.tile(shared, (len(rows), 1))
        _share(shared.reshape(-1), tied)
    return _undone(order, shared)


def _share(ranks: Array, tied: Array) -> None:
    """Give runs of ties their mean rank, in place; `tied` is where the next value is equal."""
    begin = np.flatnonzero(np.diff(tied, prepend=-2) != 1)
    length = np.diff(begin, append=len(tied))
    mean = np.repeat(ranks[tied[begin]] + length / 2, length)
    ranks[tied] = mean
    ranks[tied + 1] = mean


def _ranked_tensor(rows: Tensor) -> Tensor:
    values, order = rows.sort(dim=1)
    place = torch.arange(values.shape[1], device=values.device).expand_as(order)
    edge = torch.ones_like(order[:, :1], dtype=torch.bool)
    new = values[:, 1:] != values[:, :-1]
    first = torch.where(torch.cat([edge, new], 1), place, 0).cummax(1).values
    last = torch.where(torch.cat([new, edge], 1), place, values.shape[1] - 1)
    last = last.flip(1).cummin(1).values.flip(1)
    shared = (first + last).double() / 2 + 1
    return torch.empty_like(shared).scatter_(1, order, shared)


def _placed(rows: Rows) -> Rows:
    if isinstance(rows, Tensor):
        return rows.argsort(dim=1, stable=True).argsort(dim=1)
    return _undone(_ordered(rows)[0], np.arange(rows.shape[1]))


def _ordered(rows: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Give the stable order of each row, and (B, N) where the next value of it is equal.

    NumPy sorts integers several times as fast as it sorts with their places, and PyTorch is
    slower than both. So a float32 and its place make one integer: the float's bits, which are
    ordered as the floats once those of negative ones are turned around, and the place below.
    """
    equal = np.zeros(rows.shape, dtype=bool)
    if rows.dtype != np.float32:
        order = rows.argsort(axis=1, kind="stable")
        values = np.take_along_axis(rows, order, axis=1)
        np.equal(values[:, 1:], values[:, :-1], out=equal[:, :-1])
        return order, equal
    bits = (rows + np.float32(0)).view(np.int32)  # -0 is 0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    keys = bits.astype(np.int64) << 32
    keys |= np.arange(rows.shape[1])
    keys.sort(axis=1)
    differing = (keys[:, 1:] ^ keys[:, :-1]).view(np.uint64)
    np.less_equal(differing, LOW, out=equal[:, :-1])
    return keys & np.int64(LOW), equal


def _undone(order: Array, values: Array) -> Array:
    """Put the values of sorted places where they were."""
    found = np.empty(order.shape, dtype=values.dtype)
    begin = order.shape[1] * np.arange(len(order))[:, None]
    found.reshape(-1)[order + begin] = values
    return found


def _least(rows: Rows, count: Any) -> Rows:
    """Give (B, 1) the least of the `count` most relevant values of each row."""
    from_below = rows.shape[1] - count
    if isinstance(rows, Tensor):
        if isinstance(count, int):
            return rows.topk(count, dim=1).values[:, -1:]
        return rows.sort(dim=1).values.gather(1, from_below)
    if isinstance(count, int):
        return np.partition(rows, from_below, axis=1)[:, from_below, None]
    return np.take_along_axis(np.sort(rows, axis=1), from_below, axis=1)
