"""The γ rule: ε with positive contributions favoured (Montavon et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from debride.relevance.ledger import Account, along, channel_sums
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule
from debride.relevance.rules.registry import register_rule
from debride.relevance.rules.zplus import signed_adjoint, signed_parts


@register_rule("gamma")
@dataclass(frozen=True)
class Gamma(Rule):
    """The γ rule, generalised for signed inputs: what agrees with the output's sign counts more.

    With P and N the sums of positive and of negative contributions (biases among them), the
    shares are z + γz⁺ of y + γP where y > 0 and z + γz⁻ of y + γN where y < 0.

    Attributes
    ----------
    gamma : float
        0 is the ε rule.
    epsilon : float
        Added to the size of the denominator.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return c of the input."""
        signed = account.is_signed(x)
        above, below = signed_parts(x, y, operator, signed=signed)
        if operator.bias is not None:
            shift = along(operator.bias, operator.channel_dim, y)
            above, below = above + shift.clamp(min=0), below + shift.clamp(max=0)
        relevance = y * c
        up = (y > 0).to(y.dtype)
        s_up = relevance * up / (y + self.gamma * above + self.epsilon)
        s_down = relevance * (1 - up) / (y + self.gamma * below - self.epsilon)
        dim, b = operator.channel_dim, operator.bias
        account.settle(channel_sums(s_up - s_down, dim), None, self.epsilon)
        if b is not None:
            account.absorb_along(s_up, b + self.gamma * b.clamp(min=0), dim)
            account.absorb_along(s_down, b + self.gamma * b.clamp(max=0), dim)
        if not signed and not bool(torch.count_nonzero(s_down)):
            # After this operator comes a ReLU: only y > 0 holds relevance.
            weight = operator.weight
            return operator.adjoint(s_up, x, weight + self.gamma * weight.clamp(min=0))
        # W = W⁺ + W⁻, so that two products serve both signs of y.
        s_above = (1 + self.gamma) * s_up + s_down
        s_below = s_up + (1 + self.gamma) * s_down
        return signed_adjoint(x, s_above, s_below, operator, signed=signed)
