"""The results of a comparison as files: CSV, Parquet, figures, and a Markdown page with them."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from debride.comparing.figures import figure
from debride.comparing.summary import Line, Mean, Row, lines_of, named, rows_of
from debride.files import write_atomic

SHOWN = 5
"""Budgets in the table, at most; the figures and files have all."""


def write_tables(out: Path, cells: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Write what finished cells say into a folder, and return it summed up.

    ``results.csv`` has a row for each measured network (``results.parquet`` too where pyarrow is
    installed), ``comparison.md`` a table for each network and data, ``figures/`` their curves.
    """
    rows = rows_of(cells)
    lines = lines_of(rows)
    write_atomic(out / "results.csv", as_csv(rows))
    if importlib.util.find_spec("pyarrow") is not None:
        write_atomic(out / "results.parquet", _as_parquet(rows))
    for network, data in places(lines):
        part = [row for row in rows if (row["network"], row["data"]) == (network, data)]
        write_atomic(out / "figures" / f"{network}-{data}.svg", figure(part, f"{network}, {data}"))
    write_atomic(out / "comparison.md", page(lines, "figures"))
    return lines


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows as text."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _as_parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def places(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Return the networks and data that there are results of."""
    return list(dict.fromkeys((line.network, line.data) for line in lines))


def page(
    lines: Sequence[Line],
    figures: str,
    title: str = "Comparison",
    level: int = 1,
    legend: bool = True,
) -> str:
    """Write a Markdown page: for each network and data a figure and a table.

    Parameters
    ----------
    figures : str
        Folder of the figures, as the page names it.
    """
    mark = "#" * level
    text = [f"{mark} {title}", "", *(_LEGEND if legend else ()), ""]
    for network, data in places(lines):
        part = [line for line in lines if (line.network, line.data) == (network, data)]
        shown = _shown(sorted({b for line in part for b in line.losses}, reverse=True))
        text += [f"{mark}# {network}, {data}", ""]
        text += [f"![Lost on test]({figures}/{network}-{data}.svg)", ""]
        text.append(
            "| criterion | seeds | MACs removed | parameters removed | its test loss "
            "| MACs removed at −1 on test | mean loss | same decisions | heatmaps | "
            + " | ".join(f"loss at {budget:.0%}" for budget in shown)
            + " |"
        )
        text.append("|---" * (9 + len(shown)) + "|")
        for line in part:
            losses = [signed(line.losses.get(budget)) for budget in shown]
            text.append(
                f"| {named(line.criterion, line.stage)} | {line.macs_removed.count} "
                f"| {share(line.macs_removed)} "
                f"| {share(line.params_removed)} | {signed(line.test_loss)} "
                f"| {crossed(line)} | {signed(line.mean_loss)} "
                f"| {share(line.same_decisions)} | {correlation(line.heatmaps)} "
                f"| {' | '.join(losses)} |"
            )
        text.append("")
    return "\n".join(text)


_LEGEND = (
    "Losses are points of balanced accuracy (of macro ROC AUC where images have several labels)",
    "against the network before any cut; negative is better than it. *MACs removed* and",
    "*parameters removed* are those of the smallest network that lost at most one point on the",
    "validation images, *its test loss* what that one lost on the test images. *At −1 on test* is",
    "where the test curve itself crosses one point, with > where it never did. *Mean loss*, *same",
    "decisions* (the share of the test images decided as before any cut) and *heatmaps* (the rank",
    "correlation of LRP's with those before) are means over all budgets, on the test images.",
    "Fine-tuned networks have none of these: they are of a few budgets. ± is the 95 % confidence",
    "interval over seeds, from three on.",
)


def share(mean: Mean | None) -> str:
    """Write a share with its interval.

    Examples
    --------
    >>> share(Mean(0.625, None, 1)), share(Mean(0.5, 0.021, 3)), share(None)
    ('62 %', '50 ± 2 %', '')
    """
    if mean is None:
        return ""
    spread = "" if mean.half is None else f" ± {100 * mean.half:.0f}"
    return f"{100 * mean.value:.0f}{spread} %"


def crossed(line: Line) -> str:
    """Write where the test curve crosses, marked where it did not."""
    return "> " * line.uncrossed + share(line.test_macs_removed)


def correlation(mean: Mean | None) -> str:
    """Write a correlation with its interval.

    Examples
    --------
    >>> correlation(Mean(0.874, None, 1)), correlation(Mean(-0.5, 0.021, 3)), correlation(None)
    ('0.87', '−0.50 ± 0.02', '')
    """
    if mean is None:
        return ""
    spread = "" if mean.half is None else f" ± {mean.half:.2f}"
    return f"{mean.value:.2f}{spread}".replace("-", "−")


def signed(mean: Mean | None) -> str:
    """Write a loss in points with its interval.

    Examples
    --------
    >>> signed(Mean(-0.25, 0.5, 3)), signed(None)
    ('−0.2 ± 0.5', '')
    """
    if mean is None:
        return ""
    spread = "" if mean.half is None else f" ± {mean.half:.1f}"
    return f"{mean.value:.1f}{spread}".replace("-", "−")


def _shown(budgets: list[float]) -> list[float]:
    if len(budgets) <= SHOWN:
        return budgets
    step = (len(budgets) - 1) / (SHOWN - 1)
    return [budgets[round(step * place)] for place in range(SHOWN)]
