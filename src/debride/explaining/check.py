"""``debride explain --check``: where the explained output's relevance went, module by module."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from debride import screens
from debride.explaining.asking import Ask
from debride.explaining.maps import Decision
from debride.opening import Network
from debride.relevance import Audit, RuleSet, audit, pass_rules
from debride.relevance.audit import LayerAccount

TOLERANCE = 1e-3
"""How much of the explained output may be missing."""
ROWS = 40
"""Modules on the screen."""
PARTS = ("arriving", "passed", "constants", "softmax", "lost")
COLUMNS = (*PARTS, "missing")


@dataclass(frozen=True)
class Account:
    """The account of one relevance pass, over a few images.

    Attributes
    ----------
    ask : Ask
    images : int
    modules : tuple of (LayerAccount, float)
        Amounts summed over the images; |missing| summed image by image, so that no image hides
        what another lacks.
    output : float
        Σ|explained output|.
    worst : float
        Largest |missing| of a module, or of the whole pass, over the |output| of its image.
    place : str
        The module of `worst`; empty where no module explains it.
    unknown : tuple of (str, str)
        Operators without a rule, and the module.
    dead : tuple of (str, str)
        Module and operator of sums and products a branch of which received nothing.
    joins : int
        How many sums and products there are.
    """

    ask: Ask
    images: int
    modules: tuple[tuple[LayerAccount, float], ...]
    output: float
    worst: float
    place: str
    unknown: tuple[tuple[str, str], ...]
    dead: tuple[tuple[str, str], ...]
    joins: int

    @property
    def conserves(self) -> bool:
        """Whether at most `TOLERANCE` of the output is missing."""
        return self.worst <= TOLERANCE

    @property
    def sentence(self) -> str:
        """The verdict."""
        said = "conserves relevance" if self.conserves else "does not conserve relevance"
        where = f"in module '{self.place}'" if self.place else "over the whole pass"
        parts = [f"{said}: at most {self.worst:.1e} of the explained output is missing, {where}"]
        if self.unknown:
            parts.append(f"no rule for {_listed(self.unknown)}, so its gradient is used")
        if self.dead:
            parts.append(
                f"{len(self.dead)} of {self.joins} sums and products gave a branch "
                f"nothing: {_listed(self.dead)}"
            )
        return "; ".join(parts)

    def entry(self) -> dict[str, Any]:
        """Give what conservation.json holds of it."""
        return {
            "method": self.ask.method,
            "rules": None if self.ask.rules is None else self.ask.rules.name,
            "options": dict(self.ask.shown),
            "images": self.images,
            "conserves": self.conserves,
            "verdict": self.sentence,
            "output": self.output,
            "largest_missing": self.worst,
            "largest_missing_in": self.place,
            "without_rule": [{"operator": name, "module": place} for name, place in self.unknown],
            "dead_branches": [{"operator": name, "module": place} for name, place in self.dead],
            "modules": [
                {"module": layer.name, "operators": list(layer.operators), **_amounts(layer, lost)}
                for layer, lost in self.modules
            ],
        }


def accounted(asks: Sequence[Ask]) -> list[tuple[Ask, RuleSet]]:
    """Give the methods that are one relevance pass, each with its rules."""
    passes = [(ask, pass_rules(ask.method, ask.rules or "epsilon", ask.options)) for ask in asks]
    return [(ask, rules) for ask, rules in passes if rules is not None]


def account(
    network: Network, ask: Ask, rules: RuleSet, cases: Sequence[tuple[Tensor, Decision]]
) -> Account:
    """Account for the pass of one method, image by image."""
    audits = [audit(network.model, image, case.goal, rules=rules) for image, case in cases]
    worst, place = max(_worst(each) for each in audits)
    unknown = {
        (name, where): None
        for each in audits
        for name, places in each.relevance.unknown.items()
        for where in places or ("",)
    }
    dead = [
        {(join.operator, join.name): None for join in each.joins if join.dead} for each in audits
    ]
    # nothing reached it on any image
    silent = [key for key in dead[0] if all(key in each for each in dead)]
    return Account(
        ask=ask,
        images=len(audits),
        modules=tuple(_summed(audits)),
        output=sum(abs(float(each.relevance.output[0])) for each in audits),
        worst=worst,
        place=place,
        unknown=tuple(unknown),
        dead=tuple(silent),
        joins=len(audits[0].joins),
    )


def show(found: Account) -> None:
    """Print the table and the verdict."""
    title = " ".join(part for part in (found.ask.title, found.ask.details) if part)
    count = screens.plural(found.images, "image")
    screens.say("check", f"{title}, {count}, explained output {found.output:.4g} in all")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("module", overflow="fold", ratio=2)
    table.add_column("operators", overflow="fold", ratio=2)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    weight = [_weight(layer, missing, found.output) for layer, missing in found.modules]
    most = sorted(range(len(weight)), key=weight.__getitem__, reverse=True)
    kept = set(most if len(most) <= ROWS else most[: ROWS - 1])
    for place, (layer, missing) in enumerate(found.modules):
        if place in kept:
            cells = [_number(value) for value in _amounts(layer, missing).values()]
            off = missing > TOLERANCE * found.output
            style = "bold red" if off else None
            table.add_row(escape(layer.name), escape(", ".join(layer.operators)), *cells,
                          style=style)  # fmt: skip
    rest = [each for place, each in enumerate(found.modules) if place not in kept]
    if rest:
        sums = {name: sum(_amounts(*each)[name] for each in rest) for name in COLUMNS[2:]}
        cells = ["", "", *(_number(value) for value in sums.values())]
        table.add_row(f"and {len(rest)} more", "", *cells, style="dim")
    screens.show(table)
    screens.say("verdict", found.sentence)


def as_csv(found: Sequence[Account]) -> str:
    """Give every module of every pass as a table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["pass", "module", "operators", *COLUMNS])
    for each in found:
        for layer, missing in each.modules:
            amounts = _amounts(layer, missing).values()
            writer.writerow([each.ask.label, layer.name, " ".join(layer.operators), *amounts])
    return buffer.getvalue()


def _worst(found: Audit) -> tuple[float, str]:
    """Give the largest |missing| over |output|, and the module that explains it, if one does."""
    output = max(abs(float(found.relevance.output[0])), 1e-12)
    amount, name = max(((abs(x.missing), x.name) for x in found.layers), default=(0.0, ""))
    # what goes astray where no call is seen, such as in a custom autograd.Function
    whole = abs(found.relevance.delta)
    return max(amount, whole) / output, name if amount > whole / 2 else ""


def _summed(audits: Sequence[Audit]) -> Iterator[tuple[LayerAccount, float]]:
    rows: dict[str, list[LayerAccount]] = {}
    for each in audits:
        for layer in each.layers:
            rows.setdefault(layer.name, []).append(layer)
    for name, layers in rows.items():
        operators = tuple(dict.fromkeys(op for layer in layers for op in layer.operators))
        amounts = (sum(getattr(layer, part) for layer in layers) for part in PARTS)
        yield LayerAccount(name, operators, *amounts), sum(abs(each.missing) for each in layers)


def _amounts(layer: LayerAccount, missing: float) -> dict[str, float]:
    return {**{name: getattr(layer, name) for name in PARTS}, "missing": missing}


def _weight(layer: LayerAccount, missing: float, output: float) -> tuple[bool, float]:
    kept = sum(abs(getattr(layer, name)) for name in ("constants", "softmax", "lost"))
    return missing > TOLERANCE * output, kept + missing


def _number(value: float) -> str:
    """Write an amount shortly; rounding as its size alone."""
    if value == 0:
        return "0"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.0e}"


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    """Name operators and the modules that they stand in."""
    shown = [f"{name} in '{place}'" if place else name for name, place in pairs[:3]]
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return ", ".join(shown) + more
