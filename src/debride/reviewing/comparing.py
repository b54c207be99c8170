"""``debride plan diff``: what each of two plans keeps that the other does not."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from debride import screens
from debride.errors import DebrideError
from debride.planning.plan import Plan, PlannedGroup, write_ranges
from debride.reviewing.showing import open_plan, say_origin

LONGEST = 60
"""Characters of a list of units that are shown."""


def diff(first: Path, second: Path) -> None:
    """Print how two plans for one architecture differ.

    Raises
    ------
    DebrideError
        Where they are for different architectures, or split one group in other ways.
    """
    one, two = open_plan(first), open_plan(second)
    if one.fingerprint != two.fingerprint:
        raise DebrideError(
            f"'{first}' and '{second}' are plans for different architectures (fingerprints "
            f"{one.fingerprint[:12]} and {two.fingerprint[:12]}): compare plans for one network"
        )
    say_origin(one, "A")
    say_origin(two, "B")
    _show_costs(one, two)
    pairs = paired(one, two)
    _show_groups(pairs)
    _show_units([(a, b) for a, b in pairs if a.keep != b.keep])


def paired(one: Plan, two: Plan) -> list[tuple[PlannedGroup, PlannedGroup]]:
    """Return each group as both plans have it; a plan that leaves one out keeps all of it."""
    first = {group.name: group for group in one.groups}
    second = {group.name: group for group in two.groups}
    pairs = []
    for name in {**first, **second}:
        a, b = first.get(name), second.get(name)
        group = a or b
        assert group is not None
        whole = group.planned(range(group.units))
        a, b = a or whole, b or whole
        if a.units != b.units:
            raise DebrideError(
                f"the group '{name}' has {a.units} units in one plan and {b.units} in the other: "
                "one of them is damaged"
            )
        pairs.append((a, b))
    return pairs


def _show_costs(one: Plan, two: Plan) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "uncut", "A", "B"):
        table.add_column(name, justify="right" if name else "left")
    for label, unit, key in (
        ("MACs", screens.amount, "macs"),
        ("parameters", screens.amount, "params"),
        ("size", screens.size, "bytes"),
    ):
        uncut = one.before.to_dict()[key]
        after = (plan.after.to_dict()[key] for plan in (one, two))
        cells = (f"{unit(now)} ({now / max(uncut, 1):.1%})" for now in after)
        table.add_row(label, unit(uncut), *cells)
    screens.show(table)


def _show_groups(pairs: list[tuple[PlannedGroup, PlannedGroup]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", overflow="fold")
    for name in ("units", "A", "B", "both", "only A", "only B", "overlap"):
        table.add_column(name, justify="right")
    totals = [0, 0, 0, 0]
    for a, b in pairs:
        both = len(set(a.keep) & set(b.keep))
        counts = (a.units, len(a.keep), len(b.keep), both)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        if a.keep != b.keep:
            table.add_row(escape(a.name), *_cells(*counts))
    same = sum(a.keep == b.keep for a, b in pairs)
    if same:
        kept = "keeps" if same == 1 else "keep"
        table.add_row(f"[dim]{screens.plural(same, 'group')} {kept} the same units[/dim]")
    if pairs:
        table.add_section()
        table.add_row("all", *_cells(*totals))
        screens.show(table)


def _cells(units: int, a: int, b: int, both: int) -> list[str]:
    """Give the counts, and the part of what either keeps that both keep (Jaccard)."""
    overlap = both / max(a + b - both, 1)
    return [*map(str, (units, a, b, both, a - both, b - both)), f"{overlap:.0%}"]


def _show_units(pairs: list[tuple[PlannedGroup, PlannedGroup]]) -> None:
    if not pairs:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", overflow="fold")
    table.add_column("kept by A only")
    table.add_column("kept by B only")
    for a, b in pairs:
        first, second = set(a.keep), set(b.keep)
        table.add_row(escape(a.name), _listed(first - second), _listed(second - first))
    screens.show(table)


def _listed(units: set[int]) -> str:
    text = write_ranges(sorted(units)) or "–"
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST].rpartition(' ')[0]} …"
