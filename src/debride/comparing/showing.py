"""A comparison on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from debride import screens
from debride.comparing.summary import Line, named
from debride.comparing.tables import correlation, crossed, share, signed


def show_lines(lines: Sequence[Line]) -> None:
    """Say how much each criterion removes at one point of loss, and whether the reasons stayed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    words = " ".join(named(line.criterion, line.stage) for line in lines).split()
    widest = max(len(word) for word in words)  # names are not broken, whatever else is
    table.add_column("network, data\n  criterion", overflow="fold", min_width=2 + widest)
    for column in (
        "MACs\nremoved",
        "its test\nloss",
        "−1 on\ntest at",
        "mean\nloss",
        "heat-\nmaps",
    ):
        table.add_column(column, justify="right")
    before = ""
    for line in lines:
        place = f"{line.network}, {line.data}"
        if place != before:
            table.add_row(f"[bold]{escape(place)}[/]")
        table.add_row(
            Padding(escape(named(line.criterion, line.stage)), (0, 0, 0, 2)),
            share(line.macs_removed),
            signed(line.test_loss),
            crossed(line),
            signed(line.mean_loss),
            correlation(line.heatmaps),
        )
        before = place
    screens.show(table)
    screens.say(
        "",
        "removed by the smallest network that lost at most one point on validation; mean loss and "
        "heatmaps (rank correlation with those before any cut) over all budgets, on test",
    )
