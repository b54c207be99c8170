"""DL-Backtrace's rules for linear layers and convolutions (arXiv 2411.12643, packages ≤ 0.0.25)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.blocks import blocks
from debride.relevance.ledger import Account, along, channel_sums
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule
from debride.relevance.rules.registry import register_rule
from debride.relevance.rules.zplus import signed_adjoint, signed_parts

Bounds = Mapping[str, tuple[float, float]]
_INFINITE = float("inf")
_ROWS_BYTES = 2**23

ACTIVATION_BOUNDS: dict[str, tuple[float, float]] = {
    "tanh": (-2, 2),
    "sigmoid": (-4, 4),
    "softmax": (-1, 2),
    "silu": (-6, _INFINITE),
}


@register_rule("backtrace")
@dataclass(frozen=True)
class Backtrace(Rule):
    """DL-Backtrace, default mode: R_x = |x| ⊙ |W|ᵀ(R_y / (|W||x| + |b|)).

    Attributes
    ----------
    later : bool
        The rule of packages after 0.1.0: the denominator is P′ + N′ + |b|, where a sum of
        positive or of negative contributions that is 0 is replaced by 1.
    bounds : mapping of str to (float, float), optional
        By the activation function that follows: a pre-activation below the first number drops
        the positive contributions, one above the second the negative ones.
        `ACTIVATION_BOUNDS` are those of the packages, where ReLU's never take effect.
    """

    later: bool = False
    bounds: Bounds = field(default_factory=dict)

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return c of the input."""
        if self.later or account.after in self.bounds:
            return self._by_sign(x, y, c, operator, account)
        dim, tiny = operator.channel_dim, torch.finfo(y.dtype).tiny
        operator, _ = operator.unscaled()
        bias = None if operator.bias is None else operator.bias.abs()
        signed = account.is_signed(x)
        size, relevance = x.abs() if signed else x, y * c
        # Nothing reaches an output whose sum is 0, and so is y: R is 0 there.
        offset = operator.kernel.new_full((y.shape[dim],), tiny) if bias is None else bias + tiny
        if operator.name == "linear":
            s, back = _by_rows(size, relevance, operator.kernel, offset)
        else:
            weight = operator.kernel.abs()
            s = relevance.div_(operator(size, weight, offset))
            back = operator.adjoint(s, x, weight)
        account.settle(channel_sums(s, dim), bias)
        return _signed_as(x, back) if signed else back

    def _by_sign(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        signed, dim = account.is_signed(x), operator.channel_dim
        above, below = signed_parts(x, y, operator, signed=signed)
        below = -below
        low, high = self.bounds.get(account.after or "", (-_INFINITE, _INFINITE))
        keep_above, keep_below = (y >= low).to(y.dtype), (y <= high).to(y.dtype)
        above, below = above * keep_above, below * keep_below
        if self.later:
            above, below = (torch.where(v == 0, torch.ones_like(v), v) for v in (above, below))
        bias = None if operator.bias is None else operator.bias.abs()
        total = above + below
        if bias is not None:
            total = total + along(bias, dim, y)
        relevance = y * c
        s = relevance / total.clamp(min=torch.finfo(y.dtype).tiny)
        account.settle(channel_sums(s, dim), bias)
        back = signed_adjoint(x, s * keep_above, -s * keep_below, operator, signed=signed)
        absorbed = 0 if bias is None else (s * along(bias, dim, y)).sum()
        account.lose(relevance.sum() - (x * back).sum() - absorbed)
        return back


def _by_rows(
    size: Tensor, relevance: Tensor, weight: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Return s, in place of R, and |W|ᵀs of a linear layer; |W| is never held whole."""
    step = max(1, _ROWS_BYTES // (weight.shape[1] * weight.element_size()))
    inputs, s = (v.reshape(-1, v.shape[-1]) for v in (size, relevance))
    back = torch.empty_like(inputs)
    for begin in range(0, weight.shape[0], step):
        rows = slice(begin, begin + step)
        part = weight[rows].abs()
        share = s[:, rows].div_(F.linear(inputs, part, offset[rows]))
        back.addmm_(share, part, beta=1 if begin else 0)
    return s.view(relevance.shape), back.view(size.shape)


def _signed_as(x: Tensor, back: Tensor) -> Tensor:
    """Return back ⊙ sign(x), in its place."""
    for block in blocks(x):
        back[block.index].mul_(x[block.index].sign())
    return back


@register_rule("contrastive")
@dataclass(frozen=True)
class Contrastive(Rule):
    """DL-Backtrace, contrastive mode: two maps compete at every unit.

    The first half of the batch carries R⁺ (for the target), the second R⁻ (for the rest). Where
    the output is positive, the larger of the two goes to the positive contributions and the
    smaller to the negative ones; where it is negative, the other way round. Contributions of one
    sign only pass both maps.
    """

    coupled = True

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return c of the input for both maps."""
        half = x.shape[0] // 2
        image, out = x[:half], y[:half]
        if float((image - x[half:]).abs().max()) > 1e-3 * float(image.abs().max()):
            raise DebrideError(
                f"the contrastive mode needs the images in the first dimension, which they are "
                f"not in module '{account.where}': use the default mode"
            )
        signed = account.is_signed(image)
        above, below = signed_parts(image, out, operator, signed=signed)
        plus, minus = out * c[:half], out * c[half:]
        single = (above == 0) | (below == 0)
        # Ties go to R⁻, as in the packages.
        plus_above = torch.where(out > 0, plus > minus, plus < minus)
        live = out != 0
        tiny = torch.finfo(y.dtype).tiny
        by_above, by_below = above.clamp(min=tiny).reciprocal(), below.clamp(max=-tiny).reciprocal()
        s_above = torch.cat([plus * (single | plus_above), minus * (single | ~plus_above)])
        s_below = torch.cat([plus * (single | ~plus_above), minus * (single | plus_above)])
        both = torch.cat([live, live])
        s_above = s_above * torch.cat([by_above * (above > 0)] * 2) * both
        s_below = s_below * torch.cat([by_below * (below < 0)] * 2) * both
        back = signed_adjoint(x, s_above, s_below, operator, signed=signed)
        account.lose((y * c).sum() - (x * back).sum())
        return back
