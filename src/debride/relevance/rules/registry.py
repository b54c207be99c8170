"""Rules by name, for files and for whoever writes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from debride.errors import DebrideError, hint
from debride.relevance.rules.base import Rule

Kind = TypeVar("Kind", bound=type[Rule])
_RULES: dict[str, type[Rule]] = {}


def register_rule(name: str) -> Callable[[Kind], Kind]:
    """Register a dataclass of a rule under a name that composites in YAML use."""

    def add(kind: Kind) -> Kind:
        _RULES[name] = kind
        return kind

    return add


def rule_names() -> tuple[str, ...]:
    """Return the names that `make_rule` knows."""
    return tuple(sorted(_RULES))


def make_rule(name: str, **options: Any) -> Rule:
    """Make a rule from its name and options.

    Raises
    ------
    DebrideError
        For a name that nobody registered, or an option that the rule does not have.

    Examples
    --------
    >>> import debride.relevance
    >>> make_rule("gamma", gamma=0.1)
    Gamma(gamma=0.1, epsilon=1e-06)
    """
    if name not in _RULES:
        raise DebrideError(f"no rule '{name}': {hint(name, rule_names())}")
    kind = _RULES[name]
    known = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            raise DebrideError(f"the rule '{name}' has no option '{key}': {hint(key, known)}")
        if "float" in str(known[key]) and not _is_numeric(value):
            raise DebrideError(f"{key}={value!r} of the rule '{name}' is not a number")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return kind(**options)


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_numeric(item) for item in value)
    if isinstance(value, dict):
        return all(_is_numeric(item) for item in value.values())
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
