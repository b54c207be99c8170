"""Rule sets from YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from debride.config import load_yaml
from debride.errors import DebrideError, hint
from debride.relevance.rules.base import Rule
from debride.relevance.rules.registry import make_rule
from debride.relevance.rules.sets import CHOICES, RuleSet

_KINDS = ("linear", "convolution", "first")


def read_rules(path: Path) -> RuleSet:
    """Read a rule set from a YAML file.

    A rule is a name, or a mapping with the name under ``rule`` and its options beside it::

        linear: {rule: epsilon, epsilon: 1.0e-6}
        convolution: {rule: gamma, gamma: 0.25}
        first: flat
        names: {"layer4.*": epsilon}
        depths: {"0.0-0.3": zplus}
        sums: abs

    Raises
    ------
    DebrideError
        For a file that cannot be read, an unknown key, rule or option.
    """
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DebrideError(f"cannot read the rule set '{path}': {error}") from error
    except yaml.YAMLError as error:
        raise DebrideError(f"the rule set '{path}' is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise DebrideError(f"the rule set '{path}' is empty: give linear and convolution rules")
    known = (*_KINDS, "name", "names", "depths", *CHOICES)
    for key in data:
        if key not in known:
            raise DebrideError(f"'{key}' in the rule set '{path}' is unknown: {hint(key, known)}")
    for kind in ("linear", "convolution"):
        if kind not in data:
            raise DebrideError(f"the rule set '{path}' has no rule for '{kind}': add one")
    try:
        rules: dict[str, Any] = {kind: _rule(data[kind]) for kind in _KINDS if data.get(kind)}
        rules["names"] = {str(k): _rule(v) for k, v in _mapping(data, "names").items()}
        rules["depths"] = {_range(k): _rule(v) for k, v in _mapping(data, "depths").items()}
        choices = {key: data[key] for key in CHOICES if key in data}
        return RuleSet(name=str(data.get("name", path.stem)), **rules, **choices)
    except DebrideError as error:
        raise DebrideError(f"in the rule set '{path}': {error}") from error


def _rule(value: Any) -> Rule:
    if isinstance(value, str):
        return make_rule(value)
    if isinstance(value, dict) and isinstance(value.get("rule"), str):
        return make_rule(value["rule"], **{str(k): v for k, v in value.items() if k != "rule"})
    raise DebrideError(f"{value!r} is no rule: give a name, or a mapping with 'rule: name'")


def _mapping(data: Mapping[str, Any], key: str) -> dict[Any, Any]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise DebrideError(f"'{key}' must be a mapping")
    return value


def _range(text: Any) -> tuple[float, float]:
    low, dash, high = str(text).partition("-")
    try:
        found = float(low), float(high)
    except ValueError:
        dash = ""
    if not dash or not 0 <= found[0] <= found[1] <= 1:
        raise DebrideError(
            f"'{text}' is no depth: write '0.0-0.3', 0 at the input, 1 at the output"
        )
    return found
