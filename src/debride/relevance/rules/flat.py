"""The flat rule: every input in reach gets the same share (Lapuschkin et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from debride.relevance.ledger import Ledger
from debride.relevance.linear import LinearOperator


@dataclass(frozen=True)
class Flat:
    """The flat rule, for the first layer: its relevance does not vanish where the input does.

    It cannot travel in gradient form, so it writes the input's relevance into the ledger.
    """

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
        result: Tensor = _FlatFunction.apply(x, operator, output, ledger)
        return result


class _FlatFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, operator: LinearOperator, output: Callable[[], Tensor], ledger: Ledger
    ) -> Tensor:
        y = output()
        ctx.save_for_backward(x, y)
        ctx.operator, ctx.ledger = operator, ledger
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        operator: LinearOperator = ctx.operator
        ones = torch.ones_like(operator.weight)
        # Zeros of the padding are not inputs: the shares are those of the inputs in reach.
        reach = operator(torch.ones_like(x[:1]), ones)
        ctx.ledger.input_relevance = operator.adjoint(y * c / reach.clamp(min=1), x, ones)
        return torch.zeros_like(x), None, None, None
