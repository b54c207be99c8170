"""Operators that R passes unchanged: c_x = y ⊙ c_y / x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from debride.relevance.blocks import blocks
from debride.relevance.kept import with_back
from debride.relevance.ledger import Account

EPSILON = 1e-6


def passed_back(x: Tensor, y: Tensor, c: Tensor, account: Account | None = None) -> Tensor:
    """Return y ⊙ c / (x ± ε), and enter what that loses where x is next to 0."""
    back = torch.empty_like(y)
    least, lost = y.new_full((), EPSILON), y.new_zeros(())
    for block in blocks(y):
        i = block.index
        divisor = torch.copysign(least, x[i]).add_(x[i])
        torch.mul(y[i], c[i], out=back[i]).div_(divisor)
        if account is not None:  # R − x · R / (x ± ε) = ±ε · R / (x ± ε)
            lost += divisor.sub_(x[i]).mul_(back[i]).sum()
    if account is not None:
        account.lose(lost)
    return back


def passed(x: Tensor, f: Callable[[Tensor], Tensor], account: Account) -> Tensor:
    """Return `f(x)`, through which R goes to `x` value by value.

    Where x is next to 0 it can carry nothing: that part is entered as lost.
    """
    return with_back(x, f, lambda x, y, c: passed_back(x, y, c, account))


class _PassedSoftmax(torch.autograd.Function):
    """Softmax that R passes; the scores are log p + log Σ exp, so that only p is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, account: Account) -> Tensor:
        p = torch.softmax(x, dim)
        ctx.save_for_backward(p, log_sum(x, p, dim))
        ctx.account = account
        return p

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        p, total = ctx.saved_tensors
        return passed_back(scores_again(p, total), p, c, ctx.account), None, None


def passed_softmax(x: Tensor, dim: int, account: Account) -> Tensor:
    """Return softmax over `dim`, through which R goes to the scores value by value."""
    p: Tensor = _PassedSoftmax.apply(x, dim, account)
    return p


def log_sum(x: Tensor, p: Tensor, dim: int) -> Tensor:
    """Return log Σ exp of scores whose softmax is p: the largest score less its logarithm."""
    return x.amax(dim, keepdim=True) - p.amax(dim, keepdim=True).log_()


def scores_again(p: Tensor, total: Tensor) -> Tensor:
    """Return scores from their softmax; a masked one carries nothing, whatever stands for it."""
    return p.clamp(min=torch.finfo(p.dtype).tiny).log_().add_(total)
