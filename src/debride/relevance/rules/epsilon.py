"""The ε rule: R_x = x ⊙ Wᵀ(R_y / (y + ε·sign(y))) (Bach et al. 2015, eq. 58)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from debride.relevance.ledger import Account
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule
from debride.relevance.rules.registry import register_rule


@register_rule("epsilon")
@dataclass(frozen=True)
class Epsilon(Rule):
    """The ε rule; ε = 0, the limit, is autograd's own backward and the cheapest of all rules."""

    epsilon: float = 0.0

    @property
    def plain(self) -> bool:  # type: ignore[override]
        """Whether autograd's own backward is the rule already."""
        return self.epsilon == 0

    def back(
        self, x: Tensor, y: Tensor, c: Tensor, operator: LinearOperator, account: Account
    ) -> Tensor:
        """Return Wᵀ(c · |y| / (|y| + ε)): R_y / s(y) written without a division by y."""
        size = y.abs()
        s = c * (size / (size + self.epsilon))
        account.lose((y * (c - s)).sum())
        if operator.bias is not None:
            account.absorb_along(s, operator.bias, operator.channel_dim)
        return operator.adjoint(s, x)
