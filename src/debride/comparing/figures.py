"""A comparison's curves: what each criterion loses on test, the more it removes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from debride.comparing.summary import STAGES, Row, named

COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #7A5195 #8C8C8C #B8860B".split()
"""Wong 2011, doi:10.1038/nmeth.1618, and some more."""
MARKS = "o s ^ D v P X * < >".split()
WORDS = {"balanced_accuracy": "balanced accuracy", "roc_auc": "macro ROC AUC"}
HIGHEST = 25.0
"""Points lost at which the picture ends."""


def figure(rows: Sequence[Row], title: str) -> str:
    """Draw one network and data as SVG: a line for each criterion, its mean over the seeds.

    Above what is lost, below how alike the heatmaps stayed, where that was measured. Of more
    criteria than there are colours, those of the lowest mean loss are drawn. Fine-tuned networks
    are filled marks without a line; the band is the range of the seeds.
    """
    alike = [row for row in rows if row["test_heatmaps"] is not None]
    picture = Figure(figsize=(8.4, 8.4 if alike else 4.8), layout="constrained")
    panels = picture.subplots(2 if alike else 1, sharex=True, squeeze=False)[:, 0]
    criteria = list(dict.fromkeys(row["criterion"] for row in rows))
    if len(criteria) > len(COLOURS):
        title = f"{title}: the {len(COLOURS)} best of {len(criteria)}"
        kept = set(sorted(criteria, key=lambda name: _mean_loss(rows, name))[: len(COLOURS)])
        criteria = [name for name in criteria if name in kept]
    for axes, some, value in zip(
        panels, (rows, alike), ("test_loss", "test_heatmaps"), strict=False
    ):
        for place, criterion in enumerate(criteria):
            _draw(axes, [row for row in some if row["criterion"] == criterion], value, place)
        axes.grid(color="#dde3e8", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(1, color="#555", linewidth=0.8, linestyle=":")
    metric = WORDS[rows[0]["metric"]]
    panels[0].set(title=title, ylabel=f"{metric} lost on test, points", xlim=(0, 100))
    lowest = min(row["test_loss"] for row in rows)
    panels[0].set_ylim(min(HIGHEST, max(r["test_loss"] for r in rows) + 1), min(-1.0, lowest - 0.5))
    if alike:
        panels[1].set(ylabel="rank correlation of heatmaps, before and after", ylim=(-0.1, 1.02))
    panels[-1].set_xlabel("MACs removed, %")
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "debride", "svg.fonttype": "none"}):
        picture.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _draw(axes: Axes, rows: Sequence[Row], name: str, place: int) -> None:
    """Draw one criterion: its repaired networks as a line, fine-tuned ones as marks."""
    colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
    for stage in STAGES:
        part = [row for row in rows if row["stage"] == stage]
        if not part:
            continue
        budgets = sorted({row["budget"] for row in part}, reverse=True)
        groups = [[row for row in part if row["budget"] == budget] for budget in budgets]
        removed = [100 * (1 - float(np.mean([r["macs_kept"] for r in group]))) for group in groups]
        values = [[row[name] for row in group] for group in groups]
        tuned = stage == "finetuned"
        axes.plot(
            removed,
            [float(np.mean(found)) for found in values],
            linestyle="none" if tuned else "-",
            marker=mark,
            markersize=8 if tuned else 4,
            markeredgecolor="white" if tuned else colour,
            color=colour,
            linewidth=1.6,
            label=named(part[0]["criterion"], stage),
        )
        if any(len(found) > 1 for found in values):
            low, high = [min(found) for found in values], [max(found) for found in values]
            axes.fill_between(removed, low, high, color=colour, alpha=0.12, linewidth=0)


def _mean_loss(rows: Sequence[Row], criterion: str) -> float:
    part = [row for row in rows if (row["criterion"], row["stage"]) == (criterion, STAGES[0])]
    return float(np.mean([row["test_loss"] for row in part]))
