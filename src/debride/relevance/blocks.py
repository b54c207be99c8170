"""Element-wise formulas of many steps, block by block.

What such a formula makes in between is as large as a layer's output, and writing it to memory
costs more than the arithmetic. In blocks it never leaves the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**16
"""Values in a block."""


@dataclass(frozen=True)
class Block:
    """A part of a layer's output.

    Attributes
    ----------
    index : tuple
        Where it stands.
    channels : slice
        Which channels it holds.
    dim : int
        The dimension of the channels, of `ndim`.
    """

    index: tuple[Any, ...]
    channels: slice
    dim: int
    ndim: int

    def of(self, values: Tensor | float) -> Tensor | float:
        """Return this block's part of one value for each channel, or one for all as it is."""
        if not isinstance(values, Tensor):
            return values
        return values[self.channels].view(
            [-1 if d == self.dim % self.ndim else 1 for d in range(self.ndim)]
        )


def blocks(like: Tensor, dim: int = 1) -> Iterator[Block]:
    """Cut a tensor up by its first dimension, and by its channels where that is not enough.

    Examples
    --------
    >>> [block.index for block in blocks(torch.zeros(2, 3, 256, 256))][:2]
    [(slice(0, 1, None), slice(0, 1, None)), (slice(0, 1, None), slice(1, 2, None))]
    """
    whole = slice(None)
    if like.device.type != "cpu" or like.numel() <= BLOCK or like.ndim < 2:
        yield Block((...,), whole, dim, like.ndim)
        return
    each = like[0].numel()
    if each <= BLOCK or dim != 1:
        step = max(1, BLOCK // each)
        for begin in range(0, len(like), step):
            yield Block((slice(begin, begin + step),), whole, dim, like.ndim)
        return
    step = max(1, BLOCK * like.shape[1] // each)
    for row in range(len(like)):
        for begin in range(0, like.shape[1], step):
            channels = slice(begin, begin + step)
            yield Block((slice(row, row + 1), channels), channels, dim, like.ndim)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ a ⊙ b.

    Examples
    --------
    >>> inner(torch.ones(2, 2), torch.ones(2, 2))
    tensor(4.)
    """
    parts = [(a[block.index] * b[block.index]).sum() for block in blocks(a)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()
