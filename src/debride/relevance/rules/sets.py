"""Rule sets ("composites"): which rule holds where, by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from debride.errors import DebrideError, hint
from debride.relevance.linear import LinearOperator
from debride.relevance.rules.base import Rule

Sums = Literal["ratio", "abs", "half"]
Averages = Literal["ratio", "abs"]
Ties = Literal["first", "split"]
Gates = Literal["signal", "half"]
Attention = Literal["attnlrp", "cp", "pass", "collapse"]
Norms = Literal["scale", "identity"]
BatchNorm = Literal["fold", "identity"]

CHOICES: dict[str, tuple[str, ...]] = {
    "sums": get_args(Sums),
    "averages": get_args(Averages),
    "ties": get_args(Ties),
    "gates": get_args(Gates),
    "attention": get_args(Attention),
    "norms": get_args(Norms),
    "batch_norm": get_args(BatchNorm),
}


@dataclass(frozen=True)
class RuleSet:
    """Which rule holds for which operator.

    For linear layers and convolutions the first that applies counts: `names`, `first`, `depths`,
    then `linear` or `convolution`.

    Attributes
    ----------
    linear, convolution : Rule
    first : Rule, optional
        For the first of them that reads the input.
    names : mapping of str to Rule
        By the name of the module, with ``*`` and ``?``: ``{"layer4.*": Epsilon()}``.
    depths : mapping of (float, float) to Rule
        By the place among all linear layers and convolutions, 0 at the input and 1 at the
        output: ``{(0.0, 0.3): Gamma()}``.
    sums : ``"ratio"``, ``"abs"`` or ``"half"``
        How a sum shares: by the addends, by their sizes, or alike.
    averages : ``"ratio"`` or ``"abs"``
        How average pooling and means share.
    ties : ``"first"`` or ``"split"``
        Who gets what reaches a max pool with several winners.
    gates : ``"signal"`` or ``"half"``
        What gate × signal gives: all to the signal, or half to each.
    attention : ``"attnlrp"``, ``"cp"``, ``"pass"`` or ``"collapse"``
        Softmax as in AttnLRP; constant (CP-LRP, Ali et al. 2022); passed through (DL-Backtrace);
        passed through, with Q, K and V each sharing its total by size.
    norms : ``"scale"`` or ``"identity"``
        Layer, group, instance and RMS norms: the scale is a constant, or R passes unchanged.
    batch_norm : ``"fold"`` or ``"identity"``
        Merged with what feeds it, or R passes unchanged.
    """

    name: str
    linear: Rule
    convolution: Rule
    first: Rule | None = None
    names: Mapping[str, Rule] = field(default_factory=dict)
    depths: Mapping[tuple[float, float], Rule] = field(default_factory=dict)
    sums: Sums = "ratio"
    averages: Averages = "ratio"
    ties: Ties = "first"
    gates: Gates = "signal"
    attention: Attention = "attnlrp"
    norms: Norms = "scale"
    batch_norm: BatchNorm = "fold"

    def __post_init__(self) -> None:
        for option, known in CHOICES.items():
            if getattr(self, option) not in known:
                raise DebrideError(
                    f"{option}={getattr(self, option)!r}: give one of {', '.join(known)}"
                )

    def rule_for(
        self, operator: LinearOperator, *, first: bool, name: str = "", depth: float = 0.0
    ) -> Rule:
        """Return the rule for one operator."""
        for pattern, rule in self.names.items():
            if fnmatchcase(name, pattern):
                return rule
        if first and self.first is not None:
            return self.first
        for (low, high), rule in self.depths.items():
            if low <= depth <= high:
                return rule
        return self.linear if operator.name == "linear" else self.convolution

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule in the set."""
        own = (self.linear, self.convolution, *self.names.values(), *self.depths.values())
        return own if self.first is None else (*own, self.first)


_RULE_SETS: dict[str, Callable[..., RuleSet]] = {}


def register_rules(name: str) -> Callable[[Callable[..., RuleSet]], Callable[..., RuleSet]]:
    """Register a function that makes a named rule set; its keywords are the set's options."""

    def add(make: Callable[..., RuleSet]) -> Callable[..., RuleSet]:
        _RULE_SETS[name] = make
        return make

    return add


def rule_set_names() -> tuple[str, ...]:
    """Return the names that `rule_set` knows."""
    return tuple(sorted(_RULE_SETS))


def bounds_for(
    rules: str, low: tuple[float, ...], high: tuple[float, ...]
) -> dict[str, tuple[float, ...]]:
    """Return the options that bound the pixels, for a named rule set that has them.

    Examples
    --------
    >>> bounds_for("epsilon_gamma_box", (-1.0,), (1.0,)), bounds_for("epsilon", (-1.0,), (1.0,))
    ({'low': (-1.0,), 'high': (1.0,)}, {})
    """
    known = inspect.signature(_RULE_SETS[rules]).parameters if rules in _RULE_SETS else {}
    return {key: side for key, side in (("low", low), ("high", high)) if key in known}


def rule_set(rules: str | Path | RuleSet, **options: Any) -> RuleSet:
    """Return the rule set of that name or YAML file; a rule set is returned as it is.

    Parameters
    ----------
    rules : str, Path or RuleSet
        A name, or a file that ends in ``.yaml`` or ``.yml``.
    **options
        Options of that set, such as ``low`` and ``high`` of ``"epsilon_gamma_box"``, and any of
        `RuleSet`'s own choices, such as ``attention="cp"``.

    Raises
    ------
    DebrideError
        For a name that nobody registered, an option that the set does not have, or a file that
        is none.

    Examples
    --------
    >>> import debride.relevance
    >>> rule_set("epsilon", attention="cp").attention
    'cp'
    """
    if isinstance(rules, RuleSet):
        made = rules
    elif str(rules).endswith((".yaml", ".yml")):
        from debride.relevance.rules.files import read_rules

        made = read_rules(Path(rules))
    elif rules not in _RULE_SETS:
        raise DebrideError(f"no rule set '{rules}': {hint(rules, rule_set_names())}")
    else:
        make = _RULE_SETS[str(rules)]
        own = {k: options.pop(k) for k in inspect.signature(make).parameters if k in options}
        made = make(**own)
    for key in options:
        if key not in CHOICES:
            raise DebrideError(
                f"the rule set '{made.name}' has no option '{key}': {hint(key, CHOICES)}"
            )
    return dataclasses.replace(made, **options) if options else made
