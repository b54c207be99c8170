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

    @property
    def plain(self) -> bool:
        """Whether autograd's own backward is the rule already."""
        return self.epsilon == 0

    def __call__(
        self,
        x: Tensor,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        ledger: Ledger,
        where: str,
    ) -> Tensor:
        """Return the output with the rule as its backward; the bias absorbs its share."""
        if self.plain:
            y = operator(x, bias=operator.bias)
            if operator.bias is not None:
                ledger.watch(where, y, operator.bias, operator.channel_dim)
            return y
        stable: Tensor = _EpsilonFunction.apply(x, self.epsilon, operator, output, ledger, where)
        return stable


class _EpsilonFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        epsilon: float,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        ledger: Ledger,
        where: str,
    ) -> Tensor:
        y = output()
        ctx.save_for_backward(x, y)
        ctx.epsilon, ctx.operator, ctx.ledger, ctx.where = epsilon, operator, ledger, where
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        operator: LinearOperator = ctx.operator
        # R_y / (y + ε·sign(y)) with R_y = y ⊙ c, written without a division by y.
        s = c * (y.abs() / (y.abs() + ctx.epsilon))
        ctx.ledger.lose(ctx.where, (y * (c - s)).sum())
        if operator.bias is not None:
            ctx.ledger.absorb_along(ctx.where, s, operator.bias, operator.channel_dim)
        return operator.adjoint(s, x), None, None, None, None, None
