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
        return _passed_back(x, y, c, ctx.account), None, None


class _PassedSoftmax(torch.autograd.Function):
    """Softmax that R passes; the scores are log p + log Σ exp, so that only p is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, account: Account) -> Tensor:
        p = torch.softmax(x, dim)
        ctx.save_for_backward(p, torch.logsumexp(x, dim, keepdim=True))
        ctx.account = account
        return p

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        p, total = ctx.saved_tensors
        # A masked score carries nothing, whatever stands for it.
        x = p.clamp(min=torch.finfo(p.dtype).tiny).log_().add_(total)
        return _passed_back(x, p, c, ctx.account), None, None


def _passed_back(x: Tensor, y: Tensor, c: Tensor, account: Account) -> Tensor:
    """Return y ⊙ c / (x ± ε), and enter what that loses where x is next to 0."""
    back = torch.empty_like(y)
    least, lost = y.new_full((), EPSILON), y.new_zeros(())
    for block in blocks(y):
        i = block.index
        divisor = torch.copysign(least, x[i]).add_(x[i])
        torch.mul(y[i], c[i], out=back[i]).div_(divisor)
        # R − x · R / (x ± ε) = ±ε · R / (x ± ε)
        lost += divisor.sub_(x[i]).mul_(back[i]).sum()
    account.lose(lost)
    return back


def passed_softmax(x: Tensor, dim: int, account: Account) -> Tensor:
    """Return softmax over `dim`, through which R goes to the scores value by value."""
    p: Tensor = _PassedSoftmax.apply(x, dim, account)
    return p


def passed(x: Tensor, f: Callable[[], Tensor], account: Account) -> Tensor:
    """Return `f()`, computed without autograd, through which R goes to `x` value by value.

    Where x is next to 0 it can carry nothing: that part is entered as lost.
    """
    y: Tensor = _Passed.apply(x, f, account)
    return y
