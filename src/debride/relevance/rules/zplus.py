"""Rules that part positive from negative contributions: z⁺ and αβ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.ledger import Account, along
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
        if is_signed(x):
            z, _ = signed_parts(x, y, operator, signed=True)
            s = account.share(y * c, z, bias, self.epsilon, operator.channel_dim)
            return signed_adjoint(x, s, torch.zeros_like(s), operator, signed=True)
        positive = operator.positives()
        s = (y * c).div_(operator(x, positive, bias).add_(self.epsilon))
        account.settle(s, bias, self.epsilon, operator.channel_dim)
        return operator.adjoint(s, x, positive)


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
        above, below = signed_parts(x, y, operator, signed=signed)
        b, dim, relevance = operator.bias if self.bias else None, operator.channel_dim, y * c
        high, low = (None, None) if b is None else (b.clamp(min=0), b.clamp(max=0))
        s_above = account.share(self.alpha * relevance, above, high, self.epsilon, dim)
        s_below = account.share(-self.beta * relevance, below, low, -self.epsilon, dim)
        return signed_adjoint(x, s_above, s_below, operator, signed=signed)


def signed_parts(
    x: Tensor, y: Tensor, operator: LinearOperator, *, signed: bool
) -> tuple[Tensor, Tensor]:
    """Return the sums of all positive and of all negative contributions to each output.

    One extra product does for both: with A = |W||x| the sums are (Wx + A) / 2 and (Wx − A) / 2.
    """
    size = operator(x.abs() if signed else x, operator.magnitudes())
    total, noise = y, size
    if operator.bias is not None:
        b = along(operator.bias, operator.channel_dim, y)
        total, noise = y - b, size + b.abs()
    # What rounding leaves of a difference is not a contribution.
    noise = noise * (64 * torch.finfo(y.dtype).eps)
    above, below = (total + size).div_(2), (total - size).div_(2)
    return above.masked_fill_(above < noise, 0), below.masked_fill_(below > -noise, 0)


def signed_adjoint(
    x: Tensor, s_above: Tensor, s_below: Tensor, operator: LinearOperator, *, signed: bool
) -> Tensor:
    """Return c of x from s of the positive and s of the negative contributions.

    c = W⁺ᵀ s₊ + W⁻ᵀ s₋ where x ≥ 0, the weights changing places where x < 0: half of
    Wᵀ(s₊ + s₋) and of ±|W|ᵀ(s₊ − s₋).
    """
    both = operator.adjoint(s_above + s_below, x)
    sided = operator.adjoint(s_above - s_below, x, operator.magnitudes())
    if signed:
        sided = torch.where(x < 0, -sided, sided)
    return both.add_(sided).div_(2)
