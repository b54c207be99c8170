"""The ε rule: R_x = x ⊙ Wᵀ(R_y / (y + ε·sign(y))) (Bach et al. 2015, eq. 58)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from debride.relevance.ledger import Ledger
from debride.relevance.linear import LinearOperator


@dataclass(frozen=True)
class Epsilon:
    """The ε rule; ε = 0, the limit, is autograd's own backward and the cheapest of all rules."""

    epsilon: float = 0.0
    plain: bool = True

    def __call__(
        self,
        x: Tensor,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        ledger: Ledger,
        where: str,
    ) -> Tensor:
        """Return the output with the rule as its backward; the bias absorbs its share."""
        y = operator(x, bias=operator.bias)
        if operator.bias is not None:
            ledger.watch(where, y, operator.bias, operator.channel_dim)
        return self.stabilise(y, ledger, where)

    def stabilise(self, y: Tensor, ledger: Ledger, where: str) -> Tensor:
        """Multiply c of `y` by y / (y + ε·sign(y)) on its way back."""
        if self.epsilon == 0:
            return y
        stable: Tensor = _Stabilise.apply(y, self.epsilon, ledger, where)
        return stable


class _Stabilise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, epsilon: float, ledger: Ledger, where: str) -> Tensor:
        ctx.save_for_backward(y)
        ctx.epsilon, ctx.ledger, ctx.where = epsilon, ledger, where
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        kept = c * (y.abs() / (y.abs() + ctx.epsilon))
        ctx.ledger.lose(ctx.where, (y * (c - kept)).sum())
        return kept, None, None, None
