"""Rules that part positive from negative contributions: z⁺ and αβ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.ledger import Account
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule, is_signed
from debride.relevance.rules.registry import register_rule


@register_rule("zplus")
@dataclass(frozen=True)
class ZPlus(Rule):
    """The z⁺ rule: R_x = x⁺ ⊙ W⁺ᵀs + x⁻ ⊙ W⁻ᵀs, s = R_y / (W⁺x⁺ + W⁻x⁻ + b⁺).

    Source: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
    decomposition".

    Attributes
    ----------
    bias : bool
        Whether b⁺ takes part in the denominator and so absorbs a share.
    epsilon : float
        Added to the denominator.
    """

    bias: bool = True
    epsilon: float = 1e-6

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return c of the input."""
        bias = operator.bias.clamp(min=0) if self.bias and operator.bias is not None else None
        positive = operator.weight.clamp(min=0)
        signed = is_signed(x)
        z = operator(x.clamp(min=0) if signed else x, positive, bias)
        if signed:
            negative = operator.weight.clamp(max=0)
            z += operator(x.clamp(max=0), negative)
        s = (y * c).div_(z.add_(self.epsilon))
        account.settle(s, bias, self.epsilon, operator.channel_dim)
        back = operator.adjoint(s, x, positive)
        return torch.where(x < 0, operator.adjoint(s, x, negative), back) if signed else back


@register_rule("alphabeta")
@dataclass(frozen=True)
class AlphaBeta(Rule):
    """The αβ rule: α times the positive contributions' shares less β times the negative ones'.

    Source: Bach et al. 2015, eq. 60; α − β = 1, and what a unit with contributions of one sign
    only gets beside R_y is entered as lost.

    Attributes
    ----------
    alpha, beta : float
    bias : bool
        Whether b⁺ and b⁻ take part in the denominators and so absorb their shares.
    epsilon : float
        Added to the size of both denominators.
    """

    alpha: float = 2.0
    beta: float = 1.0
    bias: bool = True
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise DebrideError(
                f"alpha={self.alpha}, beta={self.beta}: give numbers of 0 or more with "
                "alpha - beta = 1"
            )

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return c of the input."""
        signed = is_signed(x)
        above, below = signed_parts(x, y, operator, signed=signed, bias=self.bias)
        relevance = y * c
        s_above = (self.alpha * relevance).div_(above.add_(self.epsilon))
        s_below = (-self.beta * relevance).div_(below.sub_(self.epsilon))
        b, dim = operator.bias if self.bias else None, operator.channel_dim
        account.settle(s_above, None if b is None else b.clamp(min=0), self.epsilon, dim)
        account.settle(s_below, None if b is None else b.clamp(max=0), -self.epsilon, dim)
        return signed_adjoint(x, s_above, s_below, operator, signed=signed)


def signed_parts(
    x: Tensor, y: Tensor, operator: LinearOperator, *, signed: bool, bias: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the sums of all positive and of all negative contributions to each output.

    One extra product where x is not negative: the other sum is what y lacks.
    """
    b = operator.bias
    positive = operator.weight.clamp(min=0)
    if not signed:
        above = operator(x, positive, b.clamp(min=0) if bias and b is not None else None)
        below = y - above
        if not bias and b is not None:
            below -= along(b, operator.channel_dim, y)
        # What rounding leaves of a difference is not a contribution.
        return above, below.masked_fill_(below > above * -8 * torch.finfo(y.dtype).eps, 0)
    negative = operator.weight.clamp(max=0)
    up, down = x.clamp(min=0), x.clamp(max=0)
    high = b.clamp(min=0) if bias and b is not None else None
    low = b.clamp(max=0) if bias and b is not None else None
    above = operator(up, positive, high) + operator(down, negative)
    below = operator(up, negative, low) + operator(down, positive)
    return above, below


def signed_adjoint(
    x: Tensor, s_above: Tensor, s_below: Tensor, operator: LinearOperator, *, signed: bool
) -> Tensor:
    """Return c of x from s of the positive and s of the negative contributions."""
    positive, negative = operator.weight.clamp(min=0), operator.weight.clamp(max=0)
    back = operator.adjoint(s_above, x, positive) + operator.adjoint(s_below, x, negative)
    if not signed:
        return back
    other = operator.adjoint(s_above, x, negative) + operator.adjoint(s_below, x, positive)
    return torch.where(x < 0, other, back)


def along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    """Give one value for each channel the shape that broadcasts along that dimension."""
    shape = [1] * like.ndim
    shape[dim] = -1
    return values.view(shape)
