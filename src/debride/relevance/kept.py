"""Calls whose rule needs what went in and what came out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Back = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, y, c of y) to c of x."""


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Callable[[Tensor], Tensor], back: Back) -> Tensor:
        y = make(x)
        ctx.save_for_backward(x, y)
        ctx.back = back
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(*ctx.saved_tensors, c), None, None


def with_back(x: Tensor, make: Callable[[Tensor], Tensor], back: Back) -> Tensor:
    """Return y = make(x), computed without autograd; on the way back c of x is back(x, y, c).

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> with_back(x, lambda x: 3 * x, lambda x, y, c: y * c).sum().backward()
    >>> x.grad
    tensor([3., 3.])
    """
    y: Tensor = _Kept.apply(x, make, back)
    return y
