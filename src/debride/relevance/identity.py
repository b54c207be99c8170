"""Operators that R passes unchanged: c_x = y ⊙ c_y / x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from debride.relevance.ledger import Account

EPSILON = 1e-6


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[], Tensor], account: Account) -> Tensor:
        y = f()
        ctx.save_for_backward(x, y)
        ctx.account = account
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        relevance = y * c
        back = relevance / torch.where(x < 0, x - EPSILON, x + EPSILON)
        # A masked score of −inf has y = 0, so carries nothing.
        shown = torch.where(torch.isinf(x), torch.zeros_like(x), x)
        ctx.account.lose((relevance - shown * back).sum())
        return back, None, None


def passed(x: Tensor, f: Callable[[], Tensor], account: Account) -> Tensor:
    """Return `f()`, computed without autograd, through which R goes to `x` value by value.

    Where x is next to 0 it can carry nothing: that part is entered as lost.
    """
    y: Tensor = _Passed.apply(x, f, account)
    return y
