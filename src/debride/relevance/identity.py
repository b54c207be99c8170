"""Operators that R passes unchanged: c_x = y ⊙ c_y / x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from debride.relevance.blocks import blocks
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
        return passed_back(x, y, c, ctx.account), None, None


def passed_back(x: Tensor, y: Tensor, c: Tensor, account: Account | None = None) -> Tensor:
    """Return y ⊙ c / (x ± ε), and enter what that loses where x is next to 0."""
    back = torch.empty_like(y)
    least, lost = y.new_full((), EPSILON), y.new_zeros(())
    for block in blocks(y):
        i = block.index
        value = x[i].clamp(min=torch.finfo(x.dtype).min)  # a masked score carries nothing
        divisor = torch.copysign(least, value).add_(value)
        torch.mul(y[i], c[i], out=back[i]).div_(divisor)
        if account is not None:  # R − x · R / (x ± ε) = ±ε · R / (x ± ε)
            lost += divisor.sub_(value).mul_(back[i]).sum()
    if account is not None:
        account.lose(lost)
    return back


def passed(x: Tensor, f: Callable[[], Tensor], account: Account) -> Tensor:
    """Return `f()`, computed without autograd, through which R goes to `x` value by value.

    Where x is next to 0 it can carry nothing: that part is entered as lost.
    """
    y: Tensor = _Passed.apply(x, f, account)
    return y
