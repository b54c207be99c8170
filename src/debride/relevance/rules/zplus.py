"""Rules that part positive from negative contributions: z⁺ and αβ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.blocks import Block, blocks
from debride.relevance.ledger import Account, channel_sums
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule
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
        dim = operator.channel_dim
        operator, factor = operator.unscaled()
        bias = operator.bias.clamp(min=0) if self.bias and operator.bias is not None else None
        epsilon = self.epsilon if factor is None else self.epsilon / factor
        offset = epsilon if bias is None else bias + epsilon
        positive = operator.kernel.clamp(min=0)
        if account.is_signed(x):
            s, sums = _shares_above(x, y, c, operator, factor, offset)
            # W⁺ᵀs where x ≥ 0 and W⁻ᵀs where x < 0: half of Wᵀs and of ±|W|ᵀs.
            kernel = operator.kernel / 2
            back, sided = operator.adjoints(s, x, kernel, kernel.abs())
            back = add_by_sign(back, sided, x)
        else:
            if not isinstance(offset, Tensor):
                offset = operator.kernel.new_full((y.shape[dim],), offset)
            s = (y * c).div_(operator(x, positive, offset))
            sums = channel_sums(s, dim)
            back = operator.adjoint(s, x, positive)
        account.settle(sums, bias, epsilon)
        return back


def _shares_above(
    x: Tensor,
    y: Tensor,
    c: Tensor,
    operator: LinearOperator,
    factor: Tensor | None,
    offset: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Return R / (P + offset) for signed inputs, 0 where P is, and its sums before that."""
    dim = operator.channel_dim
    s = operator(x.abs(), operator.kernel.abs())
    sums = s.new_zeros(s.shape[dim])
    for block in blocks(s, dim):
        i = block.index
        above = _above(y[i], s[i], operator.bias, factor, block)
        share = (y[i] * c[i]).div_(above + block.of(offset))
        sums[block.channels] += channel_sums(share, dim)
        torch.mul(share, above.sign_(), out=s[i])
    return s, sums


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
        signed, dim = account.is_signed(x), operator.channel_dim
        operator, factor = operator.unscaled()
        epsilon = self.epsilon if factor is None else self.epsilon / factor
        b = operator.bias if self.bias else None
        high, low = (None, None) if b is None else (b.clamp(min=0), b.clamp(max=0))
        plus = epsilon if high is None else high + epsilon
        minus = -epsilon if low is None else low - epsilon
        weight = operator.kernel.abs()
        difference = operator(x.abs() if signed else x, weight)
        both = torch.empty_like(difference)
        sums = difference.new_zeros(2, y.shape[dim])
        for block in blocks(y, dim):
            i = block.index
            above, below = _parts(y[i], difference[i], operator.bias, factor, block)
            relevance = y[i] * c[i]
            # Half of each, for what `signed_adjoint` says.
            s_above = (relevance * (self.alpha / 2)).div_(above + block.of(plus))
            s_below = relevance.mul_(-self.beta / 2).div_(below + block.of(minus))
            sums[0, block.channels] += channel_sums(s_above, dim)
            sums[1, block.channels] += channel_sums(s_below, dim)
            s_above.masked_fill_(above == 0, 0)
            s_below.masked_fill_(below == 0, 0)
            torch.add(s_above, s_below, out=both[i])
            torch.sub(s_above, s_below, out=difference[i])
        account.settle(2 * sums[0], high, epsilon)
        account.settle(2 * sums[1], low, -epsilon)
        back = operator.adjoint(both, x)
        sided = operator.adjoint(difference, x, weight)
        return add_by_sign(back, sided, x) if signed else back.add_(sided)


def add_by_sign(back: Tensor, sided: Tensor, x: Tensor) -> Tensor:
    """Return `back` with `sided` added where x ≥ 0 and taken away where x < 0."""
    one, both = x.new_ones(()), torch.empty_like(x)
    for block in blocks(x):
        i = block.index
        torch.addcmul(back[i], sided[i], torch.copysign(one, x[i]), out=both[i])
    return both


def _parts(
    y: Tensor, size: Tensor, bias: Tensor | None, factor: Tensor | None, block: Block
) -> tuple[Tensor, Tensor]:
    """Return the sums of positive and of negative contributions from A = |W||x|, for one block.

    They are (Wx + A) / 2 and (Wx − A) / 2; y is still multiplied by `factor`, the rest is not.
    """
    total, noise = _total(y, size, bias, factor, block)
    above, below = (total + size).div_(2), (total - size).div_(2)
    return above.masked_fill_(above < noise, 0), below.masked_fill_(below > -noise, 0)


def _above(
    y: Tensor, size: Tensor, bias: Tensor | None, factor: Tensor | None, block: Block
) -> Tensor:
    """Return the first of `_parts`."""
    total, noise = _total(y, size, bias, factor, block)
    above = (total + size).div_(2)
    return above.masked_fill_(above < noise, 0)


def _total(
    y: Tensor, size: Tensor, bias: Tensor | None, factor: Tensor | None, block: Block
) -> tuple[Tensor, Tensor]:
    """Return Wx, and how much of a sum of contributions may be what rounding left."""
    total = y if factor is None else y / block.of(factor)
    noise = size
    if bias is not None:
        total, noise = total - block.of(bias), size + block.of(bias.abs())
    return total, noise * (64 * torch.finfo(y.dtype).eps)


def signed_parts(
    x: Tensor, y: Tensor, operator: LinearOperator, *, signed: bool
) -> tuple[Tensor, Tensor]:
    """Return the sums of all positive and of all negative contributions to each output.

    One extra product does for both: with A = |W||x| the sums are (Wx + A) / 2 and (Wx − A) / 2.
    """
    size = operator(x.abs() if signed else x, operator.weight.abs())
    below = torch.empty_like(size)
    for block in blocks(size, operator.channel_dim):
        i = block.index
        size[i], below[i] = _parts(y[i], size[i], operator.bias, None, block)
    return size, below


def signed_adjoint(
    x: Tensor, s_above: Tensor, s_below: Tensor, operator: LinearOperator, *, signed: bool
) -> Tensor:
    """Return c of x from s of the positive and s of the negative contributions.

    c = W⁺ᵀ s₊ + W⁻ᵀ s₋ where x ≥ 0, the weights changing places where x < 0: half of
    Wᵀ(s₊ + s₋) and of ±|W|ᵀ(s₊ − s₋).
    """
    both = operator.adjoint(s_above + s_below, x)
    sided = operator.adjoint(s_above - s_below, x, operator.weight.abs())
    return (add_by_sign(both, sided, x) if signed else both.add_(sided)).div_(2)
