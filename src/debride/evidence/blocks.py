"""Measure many maps fast: on the CPU in pieces that stay in the cache, elsewhere all at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

VALUES = 2**15
"""Values of one array that a piece has at most, where one map is not larger: 256 KiB as float64."""

Rows = Any
"""A NumPy array or a tensor, (B, *spatial); what takes it uses what both can do."""


def in_blocks(measure: Callable[..., Rows], *given: Tensor, values: int = VALUES) -> Tensor:
    """Call a function of rows, and put together what it gives.

    On the CPU it is called with NumPy arrays of a few rows, in as many threads as torch uses:
    NumPy lets go of the interpreter while it computes. On another device it is called once, with
    the tensors.

    Parameters
    ----------
    measure
        (B, ...) arrays or tensors -> (B, ...) of the same kind, row by row.
    given
        (B, ...) each, on one device.
    values
        How many of an array's values go into one call, at most, on the CPU.

    Returns
    -------
    Tensor
        (B, ...).

    Examples
    --------
    >>> in_blocks(lambda a, b: (a * b).sum(1), torch.ones(3, 4), torch.full((3, 4), 2.0))
    tensor([8., 8., 8.])
    """
    if given[0].device.type != "cpu":
        found: Tensor = measure(*given)
        return found
    arrays = [_array(each) for each in given]
    rows = max(1, values // max(1, given[0][:1].numel()))
    parts = [
        [each[begin : begin + rows] for each in arrays]
        for begin in range(0, max(1, len(given[0])), rows)
    ]

    def call(part: list[Rows]) -> Rows:
        with np.errstate(divide="ignore", invalid="ignore"):  # NaN is an answer
            return measure(*part)

    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        return torch.from_numpy(np.concatenate([call(part) for part in parts]))
    with ThreadPoolExecutor(threads) as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(call, parts))))


def double(rows: Rows) -> Rows:
    """Give the rows as float64."""
    return rows.double() if isinstance(rows, Tensor) else rows.astype(np.float64)


def like(rows: Rows, given: npt.NDArray[Any]) -> Rows:
    """Give an array as what the rows are, where they are."""
    return torch.from_numpy(given).to(rows.device) if isinstance(rows, Tensor) else given


def dot(first: Rows, second: Rows) -> Rows:
    """Give (B,) the dot product of each pair of rows of (B, N)."""
    return (first[:, None] @ second[..., None])[:, 0, 0]


def stacked(*columns: Rows) -> Rows:
    """Put (B,) columns side by side, (B, columns)."""
    if isinstance(columns[0], Tensor):
        return torch.stack(columns, dim=1)
    return np.stack(columns, axis=1)


def _array(given: Tensor) -> npt.NDArray[Any]:
    given = given.detach()
    known: npt.NDArray[Any]
    known = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    return known
