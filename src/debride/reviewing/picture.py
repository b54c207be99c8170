"""A plan as a picture: for every group what stays and what goes."""

from __future__ import annotations

import io
from pathlib import Path

from debride.errors import DebrideError
from debride.planning.plan import Plan

KINDS = (".png", ".svg", ".pdf")
KEPT, CUT = "#1f6f8b", "#d9e2e6"


def check_suffix(file: Path) -> None:
    """Raise unless a picture can be written under that name."""
    if file.suffix not in KINDS:
        raise DebrideError(f"--picture '{file}': give a name that ends in {', '.join(KINDS)}")


def picture(plan: Plan, kind: str) -> bytes:
    """Draw one bar for each group, as long as it has units, and return the file's bytes.

    Parameters
    ----------
    kind : str
        ``"png"``, ``"svg"`` or ``"pdf"``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = len(plan.groups)
    figure = Figure(figsize=(8, 1.2 + 0.24 * max(rows, 1)), layout="constrained")
    axes = figure.add_subplot()
    places = range(rows)
    kept = [len(group.keep) for group in plan.groups]
    units = [group.units for group in plan.groups]
    axes.barh(places, units, color=CUT, label="cut")
    axes.barh(places, kept, color=KEPT, label="kept")
    for place, (stays, all_) in enumerate(zip(kept, units, strict=True)):
        axes.text(all_, place, f" {stays} of {all_}", va="center", fontsize=7)
    axes.set_yticks(places, [group.name for group in plan.groups], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(units, default=1))
    axes.set_xlabel("units")
    said = f"{plan.macs_kept:.1%} of the MACs, {plan.params_kept:.1%} of the parameters kept"
    axes.set_title(said, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "debride"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=_no_date(kind))
    return buffer.getvalue()


def _no_date(kind: str) -> dict[str, None]:
    """Leave out the time of drawing: one plan gives one file."""
    return {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
