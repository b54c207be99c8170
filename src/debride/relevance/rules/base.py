"""What a rule is, and the named sets of rules."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.ledger import Ledger
from debride.relevance.linear import LinearOperator


class Rule(Protocol):
    """How relevance crosses a linear layer or convolution (with the batch norm folded in).

    A rule is called in the forward pass. It returns the operator's output, whose backward turns
    c = R_y / y of the output into c = R_x / x of the input.
    """

    @property
    def plain(self) -> bool:
        """Whether autograd's own backward is the rule already, so that nothing needs folding."""
        ...

    def __call__(
        self,
        x: Tensor,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        ledger: Ledger,
        where: str,
    ) -> Tensor:
        """Return `output()`, with this rule as its backward.

        Parameters
        ----------
        x : Tensor
            The operator's input.
        operator : LinearOperator
            Weights and bias, merged with the batch norm that follows.
        output : callable
            Computes the output without autograd.
        ledger : Ledger
            Where the bias's share and losses are entered, under the name `where`.
        """
        ...


@dataclass(frozen=True)
class RuleSet:
    """Which rule holds for which kind of operator.

    Attributes
    ----------
    linear, convolution : Rule
    first : Rule or None
        For the first linear operator or convolution that reads the input.
    """

    name: str
    linear: Rule
    convolution: Rule
    first: Rule | None = None

    def rule_for(self, operator: LinearOperator, *, first: bool) -> Rule:
        """Return the rule for one operator."""
        if first and self.first is not None:
            return self.first
        return self.linear if operator.name == "linear" else self.convolution


_RULE_SETS: dict[str, Callable[[], RuleSet]] = {}


def register_rules(name: str) -> Callable[[Callable[[], RuleSet]], Callable[[], RuleSet]]:
    """Register a function that makes a named rule set."""

    def add(make: Callable[[], RuleSet]) -> Callable[[], RuleSet]:
        _RULE_SETS[name] = make
        return make

    return add


def rule_set_names() -> tuple[str, ...]:
    """Return the names that `rule_set` knows."""
    return tuple(sorted(_RULE_SETS))


def rule_set(rules: str | RuleSet) -> RuleSet:
    """Return the rule set of that name; a rule set is returned as it is.

    Raises
    ------
    DebrideError
        For a name that nobody registered.

    Examples
    --------
    >>> import debride.relevance
    >>> rule_set("epsilon").name
    'epsilon'
    """
    if isinstance(rules, RuleSet):
        return rules
    if rules not in _RULE_SETS:
        close = difflib.get_close_matches(str(rules), _RULE_SETS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(rule_set_names())}"
        raise DebrideError(f"no rule set '{rules}': {hint}")
    return _RULE_SETS[rules]()
