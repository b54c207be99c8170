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
        ctx.account.lose((relevance - x * back).sum())
        return back, None, None


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
        x = torch.where(p == 0, 0, p.log() + total)  # a masked score carries nothing
        relevance = p * c
        back = relevance / torch.where(x < 0, x - EPSILON, x + EPSILON)
        ctx.account.lose((relevance - x * back).sum())
        return back, None, None


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
