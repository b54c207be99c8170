"""What is asked of each method: its rules and options, and which output it explains."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError, hint
from debride.explaining.baselines import baseline_of
from debride.models.outputs import logits
from debride.options import pairs_of, parsed, value_of
from debride.relevance import (
    Relevance,
    RuleSet,
    attribute,
    method_names,
    method_options,
    method_title,
    rule_set,
    rule_set_names,
)
from debride.relevance.rules import HEATMAPS, bounds_for
from debride.relevance.rules.sets import CHOICES

Explained = int | Callable[[Any], Tensor]
"""A class, or a function from the network's output to the values to explain."""


@dataclass(frozen=True)
class Ask:
    """One method, with all that it is told.

    Attributes
    ----------
    method : str
    rules : RuleSet or None
        None for methods without rules.
    options : mapping
        As `debride.attribute` takes them.
    shown : mapping
        The same in words: a baseline by its name, the options of a rule set too.
    label : str
        For file names: the method, with its rule set where there are several.
    """

    method: str
    rules: RuleSet | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def title(self) -> str:
        """The method in words."""
        return method_title(self.method)

    @property
    def details(self) -> str:
        """Rules and options in a line."""
        told = [] if self.rules is None else [self.rules.name]
        return ", ".join([*told, *(f"{key} {_plain(v)}" for key, v in self.shown.items())])

    def of(
        self, model: nn.Module, images: Tensor, target: Explained, *, strict: bool = False
    ) -> Relevance:
        """Explain images."""
        chosen: dict[str, Any] = {} if self.rules is None else {"rules": self.rules}
        return attribute(
            model, images, target, method=self.method, strict=strict, **chosen, **self.options
        )


def asks_of(
    methods: Sequence[str],
    rules: Sequence[str],
    options: Sequence[str],
    preprocessing: Preprocessing,
    *,
    memory: float | None = None,
    seed: int = 0,
) -> tuple[Ask, ...]:
    """Turn names and ``key=value`` texts into one `Ask` for each method and each rule set of LRP.

    Raises
    ------
    DebrideError
        For a method, rule set or option that does not exist, or a value that is not of its kind.

    Examples
    --------
    >>> pixels = Preprocessing(spatial=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    >>> lrp, ig = asks_of(["lrp", "ig"], ["epsilon"], ["n_steps=5"], pixels)
    >>> lrp.details, ig.options["n_steps"], ig.options["baseline"].flatten()
    ('epsilon', 5, tensor([-1.]))
    """
    if not methods or not rules:
        raise DebrideError(
            "--method and --rules need a name each: leave them out for the usual ones"
        )
    methods, rules = tuple(dict.fromkeys(methods)), tuple(dict.fromkeys(rules))
    for name in methods:
        if name not in method_names():
            raise DebrideError(f"no --method '{name}': {hint(name, method_names())}")
    if "lrp" not in methods and rules != (HEATMAPS,):
        raise DebrideError("--rules is for the method lrp, which --method leaves out: add it")
    pairs = pairs_of(options)
    sets = {name: _Rules.named(name, preprocessing) for name in rules} if "lrp" in methods else {}
    known = {name: method_options(name) or {} for name in methods}
    everywhere = {key for each in known.values() for key in each}
    for key, text in pairs.items():
        if key not in everywhere and not any(each.has(key, text) for each in sets.values()):
            raise DebrideError(_nobody_has(key, known, sets))
    found: list[Ask] = []
    for name in methods:
        own = {k: value_of(name, k, text, known[name][k]) for k, text in pairs.items()
               if k in known[name]}  # fmt: skip
        told = dict(own)
        if "baseline" in known[name]:
            told.setdefault("baseline", "zero")
            own["baseline"] = baseline_of(own.get("baseline", "zero"), preprocessing)
        if memory is not None and "memory" in known[name]:
            own.setdefault("memory", memory)
        if "seed" in known[name]:
            own.setdefault("seed", seed)
        if name != "lrp":
            found.append(Ask(name, options=own, shown=told, label=name))
            continue
        for each in sets.values():
            mine = {k: text for k, text in pairs.items() if each.has(k, text)}
            made, values = each.make(mine)
            safe = re.sub(r"[^\w.-]", "_", made.name)
            label = name if len(sets) == 1 else f"{name}-{safe}"
            if any(ask.label == label for ask in found):
                raise DebrideError(f"two --rules are called '{made.name}': rename one of them")
            found.append(Ask(name, made, own, told | values, label))
    return tuple(found)


def class_named(given: str, classes: Sequence[str], flag: str) -> int:
    """Find a class by its name, or by its number from 0.

    Examples
    --------
    >>> names = ["normal", "cyst"]
    >>> class_named("cyst", names, "--target"), class_named("1", names, "--target")
    (1, 1)
    """
    if given in classes:
        return list(classes).index(given)
    if given.isdecimal() and int(given) < len(classes):
        return int(given)
    shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    close = difflib.get_close_matches(given, classes, n=1)
    advice = f"did you mean '{close[0]}'?" if close else f"give one of {shown}, or a number from 0"
    raise DebrideError(f"{flag} '{given}' is not a class: {advice}")


def difference(towards: int, against: int) -> Callable[[Any], Tensor]:
    """Give the function from an output to one class's logit minus another's.

    A single logit is the difference already: that of class 1 minus class 0.

    Examples
    --------
    >>> import torch
    >>> difference(0, 2)(torch.tensor([[5.0, 1.0, 3.0]])), difference(0, 1)(torch.tensor([[5.0]]))
    (tensor([2.]), tensor([-5.]))
    """

    def values(output: Any) -> Tensor:
        scores = logits(output)
        if scores.shape[1] == 1:
            return scores[:, 0] * (2 * towards - 1)
        return scores[:, towards] - scores[:, against]

    return values


@dataclass(frozen=True)
class _Rules:
    """A rule set that is still to be made with its options."""

    name: str
    defaults: Mapping[str, Any]

    @classmethod
    def named(cls, name: str, preprocessing: Preprocessing) -> _Rules:
        """Find a rule set by its name or file."""
        if name == "dlb_contrastive":
            raise DebrideError("--rules dlb_contrastive runs as --method dlb_contrastive: ask so")
        file = name.endswith((".yaml", ".yml"))
        if not file and name not in rule_set_names():
            names = [known for known in rule_set_names() if known != "dlb_contrastive"]
            raise DebrideError(f"no --rules '{name}': {hint(name, names)}, or a .yaml file")
        rule_set(name)
        return cls(name, bounds_for(name, *preprocessing.black_and_white()))

    def has(self, key: str, text: str) -> bool:
        """Tell whether the rule set has an option."""
        if key in CHOICES:
            return True
        if self.name.endswith((".yaml", ".yml")):
            return False
        try:
            rule_set(self.name, **{key: parsed(text)})
        except DebrideError:
            return False
        return True

    def make(self, options: Mapping[str, str]) -> tuple[RuleSet, dict[str, Any]]:
        """Make the rule set; return it with the options as values."""
        values = {key: parsed(text) for key, text in options.items()}
        for key, value in values.items():
            if key not in CHOICES and isinstance(value, str):
                raise DebrideError(f"--option {key}={value} is not a number")
        return rule_set(self.name, **{**self.defaults, **values}), values


def _nobody_has(key: str, known: Mapping[str, Iterable[str]], sets: Mapping[str, _Rules]) -> str:
    names = {name for each in known.values() for name in each}
    close = difflib.get_close_matches(key, names, n=1)
    if close:
        return f"no chosen method has an option '{key}': did you mean '{close[0]}'?"
    owners = [m for m in method_names() if m not in known and key in (method_options(m) or {})]
    if owners:
        return f"no chosen method has an option '{key}': {owners[0]} has it; add it to --method"
    text = "1"  # any value does to ask a rule set for an option
    owners = [name for name in rule_set_names() if _Rules(name, {}).has(key, text)]
    if sets and owners:
        return f"the rules {', '.join(sets)} have no option '{key}': {', '.join(owners)} have"
    listed = "; ".join(f"{m}: {', '.join(each)}" for m, each in known.items())
    return f"no chosen method has an option '{key}': known are {listed}"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
