"""A comparison's curves: what each criterion loses on test, the more it removes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from debride.comparing.summary import STAGES, Row

COLOURS = "#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #7A5195 #8C8C8C #B8860B".split()
"""Wong 2011, doi:10.1038/nmeth.1618, and some more."""
MARKS = "o s ^ D v P X * < >".split()
HIGHEST = 25.0
"""Points lost at which the picture ends."""


def figure(rows: Sequence[Row], title: str) -> str:
    """Draw one network and data as SVG: a line for each criterion, its mean over the seeds.

    Of more criteria than there are colours, those of the lowest mean loss are drawn. Fine-tuned
    networks are filled marks without a line; the band is the range of the seeds.
    """
    picture = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = picture.add_subplot()
    criteria = list(dict.fromkeys(row["criterion"] for row in rows))
    if len(criteria) > len(COLOURS):
        title = f"{title}: the {len(COLOURS)} best of {len(criteria)}"
        kept = set(sorted(criteria, key=lambda name: _mean_loss(rows, name))[: len(COLOURS)])
        criteria = [name for name in criteria if name in kept]
    for place, criterion in enumerate(criteria):
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        for stage in STAGES:
            part = [r for r in rows if (r["criterion"], r["stage"]) == (criterion, stage)]
            if not part:
                continue
            budgets = sorted({row["budget"] for row in part}, reverse=True)
            groups = [[row for row in part if row["budget"] == budget] for budget in budgets]
            removed = [100 * (1 - np.mean([r["macs_kept"] for r in group])) for group in groups]
            lost = [[row["test_loss"] for row in group] for group in groups]
            middle = [float(np.mean(values)) for values in lost]
            tuned = stage == "finetuned"
            axes.plot(
                removed,
                middle,
                linestyle="none" if tuned else "-",
                marker=mark,
                markersize=8 if tuned else 4,
                markeredgecolor="white" if tuned else colour,
                color=colour,
                linewidth=1.6,
                label=f"{criterion}, fine-tuned" if tuned else criterion,
            )
            if any(len(values) > 1 for values in lost):
                low, high = [min(v) for v in lost], [max(v) for v in lost]
                axes.fill_between(removed, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(1, color="#555", linewidth=0.8, linestyle=":")
    axes.set(
        title=title,
        xlabel="MACs removed, %",
        ylabel="balanced accuracy lost on test, points",
        xlim=(0, 100),
    )
    lowest = min(row["test_loss"] for row in rows)
    axes.set_ylim(min(HIGHEST, max(r["test_loss"] for r in rows) + 1), min(-1.0, lowest - 0.5))
    axes.grid(color="#dde3e8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    picture.legend(loc="outside right upper", frameon=False, fontsize=9)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "debride", "svg.fonttype": "none"}):
        picture.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _mean_loss(rows: Sequence[Row], criterion: str) -> float:
    part = [row for row in rows if (row["criterion"], row["stage"]) == (criterion, STAGES[0])]
    return float(np.mean([row["test_loss"] for row in part]))
