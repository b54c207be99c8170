"""``debride plan show``: what a plan keeps, layer by layer."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from debride import screens
from debride.files import write_atomic
from debride.planning.plan import Plan
from debride.planning.schema import plan_schema
from debride.reporting import read_text
from debride.reviewing.picture import check_suffix, picture

NARROWEST, WIDEST = 10, 40
"""Characters of a bar."""
BESIDE = 50
"""Characters that the columns beside names and bars take."""


def show(path: Path, file: Path | None = None) -> None:
    """Print what a plan keeps, and draw it to a file if one is named."""
    if file is not None:
        check_suffix(file)
    plan = open_plan(path)
    say_origin(plan)
    say_costs(plan)
    _show_groups(plan)
    if file is not None:
        write_atomic(file, picture(plan, file.suffix[1:]))
        screens.say("picture", str(file))


def schema(out: Path | None = None) -> None:
    """Print the JSON Schema of a plan file, or write it."""
    if out is None:
        print(plan_schema(), end="")
    else:
        write_atomic(out, plan_schema())


def open_plan(path: Path, said: str = "PLAN") -> Plan:
    """Read a plan from its file, or from the folder of a run."""
    return Plan.from_json(read_text(path / "plan.json" if path.is_dir() else path, said))


def say_origin(plan: Plan, label: str = "plan") -> None:
    """Say the choices that led to a plan, and what network it is for."""
    choices = {key: value for key, value in plan.made_by.items() if key != "weights"}
    parts = [
        f"{key.replace('_', ' ')} {_plain(v)}" for key, v in choices.items() if v not in (None, [])
    ]
    screens.say(label, ", ".join(parts) or "made by hand")
    weights = plan.made_by.get("weights")
    known = f", weights {str(weights)[:12]}" if weights else ""
    screens.say("", f"for the network {plan.fingerprint[:12]}{known}")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {each}" for key, each in value.items())
    return str(value)


def say_costs(plan: Plan) -> None:
    """Say what the network costs before and after the cut."""
    before, after = plan.before, plan.after
    for label, unit, was, now in (
        ("MACs", screens.amount, before.macs, after.macs),
        ("params", screens.amount, before.params, after.params),
        ("size", screens.size, before.bytes, after.bytes),
    ):
        screens.say(label, f"{unit(was)} → {unit(now)}, {now / max(was, 1):.1%} kept")


def _show_groups(plan: Plan) -> None:
    if not plan.groups:
        screens.say("groups", "none: the plan cuts nothing")
        return
    names = max(len(group.name) for group in plan.groups)
    width = min(WIDEST, max(NARROWEST, Console().width - names - BESIDE))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", overflow="fold")
    table.add_column("kind")
    table.add_column("layers", justify="right")
    table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("share", justify="right")

    def row(name: str, kind: str, layers: int, kept: int, units: int) -> None:
        cells = (f"{kept} of {units}", bar(kept / units, width), f"{kept / units:.0%}")
        table.add_row(escape(name), kind, str(layers), *cells)

    for group in plan.groups:
        row(group.name, group.kind, len(group.taps), len(group.keep), group.units)
    table.add_section()
    row(
        "all", "",
        sum(len(group.taps) for group in plan.groups),
        sum(len(group.keep) for group in plan.groups),
        sum(group.units for group in plan.groups),
    )  # fmt: skip
    screens.show(table)


def bar(share: float, width: int) -> str:
    """Draw a share as a bar; what is not all is never drawn as all, what is something as nothing.

    Examples
    --------
    >>> bar(0.5, 6), bar(0.999, 4), bar(0.001, 4)
    ('███░░░', '███░', '█░░░')
    """
    full = round(share * width)
    if 0 < share < 1:
        full = min(max(full, 1), width - 1)
    return "█" * full + "░" * (width - full)
