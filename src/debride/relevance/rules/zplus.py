"""The z⁺ rule: relevance goes where the positive contributions come from (Montavon et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from debride.relevance.ledger import Ledger
from debride.relevance.linear import LinearOperator


@dataclass(frozen=True)
class ZPlus:
    """The z⁺ rule: R_x = x⁺ ⊙ W⁺ᵀs + x⁻ ⊙ W⁻ᵀs, s = R_y / (W⁺x⁺ + W⁻x⁻ + b⁺).

    Attributes
    ----------
    bias : bool
        Whether b⁺ takes part in the denominator and so absorbs a share.
    epsilon : float
        Added to the denominator.
    """

    bias: bool = True
    epsilon: float = 1e-6
    plain: bool = False

    def __call__(
        self,
        x: Tensor,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        ledger: Ledger,
        where: str,
    ) -> Tensor:
        """Return the output with the rule as its backward."""
        result: Tensor = _ZPlusFunction.apply(x, self, operator, output, ledger, where)
        return result


class _ZPlusFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rule: ZPlus,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        ledger: Ledger,
        where: str,
    ) -> Tensor:
        y = output()
        ctx.save_for_backward(x, y)
        ctx.rule, ctx.operator, ctx.ledger, ctx.where = rule, operator, ledger, where
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        rule, operator = ctx.rule, ctx.operator
        bias = operator.bias.clamp(min=0) if rule.bias and operator.bias is not None else None
        positive = operator.weight.clamp(min=0)
        # After a ReLU nothing is negative and half of the work can be left out.
        signed = bool((x.amin() < 0).item())
        if signed:
            negative = operator.weight.clamp(max=0)
            z = operator(x.clamp(min=0), positive, bias) + operator(x.clamp(max=0), negative)
        else:
            z = operator(x, positive, bias)
        relevance = y * c
        s = relevance / (z + rule.epsilon)
        if bias is not None:
            ctx.ledger.absorb_along(ctx.where, s, bias, operator.channel_dim)
        ctx.ledger.lose(ctx.where, relevance.sum() - (s * z).sum())
        back = operator.adjoint(s, x, positive)
        if signed:
            back = torch.where(x < 0, operator.adjoint(s, x, negative), back)
        return back, None, None, None, None, None
