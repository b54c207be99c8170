"""What a rule is: how relevance crosses one linear layer or convolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from debride.relevance.ledger import Account
from debride.relevance.linear import LinearOperator


class Rule(ABC):
    """How relevance crosses a linear layer or convolution (with the batch norm folded in).

    A subclass writes `back`, which turns c = R_y / y of the output into c = R_x / x of the input.

    Attributes
    ----------
    plain : bool
        Whether autograd's own backward is the rule already, so that nothing needs folding.
    of_input : bool
        Whether R_x does not vanish with x, so that it cannot travel as c: such a rule holds for
        the layer that reads the image, and its `back` returns R_x itself.
    coupled : bool
        Whether the batch is two maps stacked, the images standing in it twice.
    """

    plain: ClassVar[bool] = False
    of_input: ClassVar[bool] = False
    coupled: ClassVar[bool] = False

    @abstractmethod
    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return c of the input, and enter into `account` what the bias absorbed or was lost.

        Parameters
        ----------
        x, y : Tensor
            The operator's input and output.
        c : Tensor
            Like `y`; the relevance that arrives is ``y * c``.
        operator : LinearOperator
            Weights and bias, merged with the batch norm that follows: y = W x + b.
        account : Account
            Where shares of constants and losses are entered.
        """


@dataclass(frozen=True)
class Remade:
    """How a tensor that is cheap to make is made again in the backward, instead of being kept."""

    sources: tuple[Tensor, ...]
    make: Callable[..., Tensor]


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rule: Rule,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        account: Account,
        remade: Remade | None,
    ) -> Tensor:
        y = output()
        ctx.save_for_backward(*((x,) if remade is None else remade.sources))
        ctx.make = None if remade is None else remade.make
        # Not saved by autograd: a ReLU may write into y, where c is then 0 (see the engine).
        ctx.y = y.detach()
        ctx.rule, ctx.operator, ctx.account = rule, operator, account
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (x, *more), y = ctx.saved_tensors, ctx.y
        del ctx.y
        if ctx.make is not None:
            x = ctx.make(x, *more)
        back = ctx.rule.back(x, y, c, ctx.operator, ctx.account)
        if ctx.rule.of_input:
            ctx.account.reach_input(back)
            back = torch.zeros_like(x)
        return back, None, None, None, None, None


def propagate(
    rule: Rule,
    x: Tensor,
    operator: LinearOperator,
    output: Callable[[], Tensor],
    account: Account,
    remade: Remade | None = None,
) -> Tensor:
    """Return `output()`, computed without autograd, with the rule as its backward."""
    known = None if rule.of_input else remade
    y: Tensor = _Propagate.apply(x, rule, operator, output, account, known)
    return y
