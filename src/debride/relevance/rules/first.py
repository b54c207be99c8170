"""Rules for the layer that reads the image: relevance need not vanish where a pixel is 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.ledger import Account, channel_sums
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule
from debride.relevance.rules.registry import register_rule


@register_rule("flat")
@dataclass(frozen=True)
class Flat(Rule):
    """The flat rule: every input in reach gets the same share (Lapuschkin et al. 2019)."""

    of_input = True

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return R of the input."""
        if operator.name == "linear" or operator.transposed:
            return _shared(x, y * c, operator, torch.ones_like(operator.kernel))
        # All channels weigh the same, so one for each group stands for them.
        weight, groups = operator.kernel, operator.groups
        kernel = weight.new_ones((groups, 1, *weight.shape[2:]))
        narrow = replace(operator, kernel=kernel, scale=None, bias=None)
        single = x[:1].new_ones((1, groups, *x.shape[2:]))
        relevance = (y * c).reshape(y.shape[0], groups, -1, *y.shape[2:]).sum(2)
        per_channel = weight.shape[1]
        # Zeros of the padding are not inputs: the shares are those of the inputs in reach.
        reach = narrow(single).mul_(per_channel)
        one = x.new_empty((x.shape[0], groups, *x.shape[2:]))
        back = narrow.adjoint(relevance / reach.clamp(min=1), one, kernel)
        account.lose((relevance * (reach == 0)).sum())
        return back.repeat_interleave(per_channel, 1)


@register_rule("wsquare")
@dataclass(frozen=True)
class WSquare(Rule):
    """The w² rule: shares by squared weights, whatever the input (Montavon et al. 2017)."""

    of_input = True

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return R of the input."""
        back = _shared(x, y * c, operator, operator.weight.square())
        account.lose((y * c).sum() - back.sum())
        return back


def _shared(x: Tensor, relevance: Tensor, operator: LinearOperator, weight: Tensor) -> Tensor:
    """Share relevance among the inputs in reach by weights alone."""
    reach = operator(torch.ones_like(x[:1]), weight)
    tiny = torch.finfo(x.dtype).tiny
    return operator.adjoint(relevance / reach.clamp(min=tiny), x, weight)


@register_rule("zbox")
@dataclass(frozen=True)
class ZBox(Rule):
    """The z^B rule for inputs within bounds (Montavon et al. 2017).

    R_x = x ⊙ Wᵀs − l ⊙ W⁺ᵀs − h ⊙ W⁻ᵀs with s = R_y / (Wx − W⁺l − W⁻h).

    Attributes
    ----------
    low, high : float, tuple of float or None
        Bounds of the prepared pixel values, one for all channels or one for each; None takes
        each image's own extremes in each channel.
    epsilon : float
        Added to the denominator, which is never negative.
    """

    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    epsilon: float = 1e-6
    of_input = True

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return R of the input."""
        low, high = self._bound(x, self.low, "low"), self._bound(x, self.high, "high")
        weight = operator.weight
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        z = operator(x, weight) - operator(low, positive) - operator(high, negative)
        s = (y * c) / (z + self.epsilon)
        account.settle(channel_sums(s, operator.channel_dim), None, self.epsilon)
        back = x * operator.adjoint(s, x, weight) - low * operator.adjoint(s, x, positive)
        return back - high * operator.adjoint(s, x, negative)

    @staticmethod
    def _bound(x: Tensor, given: float | tuple[float, ...] | None, side: str) -> Tensor:
        if given is None:
            dims = list(range(2, x.ndim)) or [1]
            found = x.amin(dims, keepdim=True) if side == "low" else x.amax(dims, keepdim=True)
        else:
            found = torch.as_tensor(given, dtype=x.dtype, device=x.device)
            if found.numel() not in (1, x.shape[1]):
                raise DebrideError(
                    f"the z^B rule was given {found.numel()} values as '{side}' for an input of "
                    f"{x.shape[1]} channels: give one number, or one for each channel"
                )
            found = found.view(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 2 else found
        return found.expand_as(x)
