"""A comparison on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from debride import screens
from debride.comparing.summary import Line
from debride.comparing.tables import named, share, signed


def show_lines(lines: Sequence[Line]) -> None:
    """Say how much each criterion removes at one point of loss."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("network, data", "criterion"):
        table.add_column(column)
    for column in (
        "MACs removed",
        "parameters",
        "its test loss",
        "at −1 on test",
        "mean loss",
        "seeds",
    ):
        table.add_column(column, justify="right")
    before = ""
    for line in lines:
        place = f"{line.network}, {line.data}"
        table.add_row(
            "" if place == before else escape(place), escape(named(line.criterion, line.stage)),
            share(line.macs_removed),
            share(line.params_removed), signed(line.test_loss), share(line.test_macs_removed),
            signed(line.mean_loss),
            str(line.macs_removed.count),
        )  # fmt: skip
        before = place
    screens.show(table)
    screens.say("", "removed by the smallest network that lost at most one point on validation")
