"""The curve of a search as SVG: metric and drift of every visited network against its MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from debride.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, Axis, circle, tick
from debride.report.words import percent

STYLE = (
    "svg{background:#fff;font:12.5px sans-serif}text{fill:#55606c}.grid{stroke:#d9dfe5}"
    ".was{stroke:#55606c;stroke-dasharray:6 5}.after{fill:none;stroke:#0a5ea8;stroke-width:2.5}"
    "circle{stroke:#fff;stroke-width:1.5}circle.after{fill:#0a5ea8}"
    "circle.before{fill:#fff;stroke:#b45309;stroke-width:2}"
    ".chosen{fill:none;stroke:#0a5ea8;stroke-width:2}"
)
"""Colours for the picture outside of the report, which has its own style sheet."""


def metric_name(metric: str, classes: Sequence[str]) -> str:
    """Name a metric for a reader.

    Examples
    --------
    >>> metric_name("recall:1", ("healthy", "flu")), metric_name("auc", ())
    ('recall of flu', 'ROC AUC')
    """
    kind, _, number = metric.partition(":")
    if kind == "recall":
        known = int(number) < len(classes)
        return f"recall of {classes[int(number)] if known else f'class {number}'}"
    return {"auc": "ROC AUC"}.get(kind, kind.replace("_", " "))


def picture(
    curve: Mapping[str, Any],
    classes: Sequence[str] = (),
    width: int = 720,
    *,
    alone: bool = False,
) -> Markup:
    """Draw what a search visited: two panels, metric above and drift below.

    Parameters
    ----------
    curve
        As `Curve.to_dict` gives it.
    classes
        Names, for the recall of one.
    width
        Of the drawing, in pixels at its natural size.
    alone
        With colours of its own, for a file that stands outside of the report.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    points = sorted(curve["points"], key=lambda point: -point["macs_kept"])
    floor = curve["floor"]
    name = metric_name(curve["metric"], classes)
    before = next(point for point in points if point["step"] == 0)["after_recovery"]
    chosen = next(point for point in points if point["step"] == curve["chosen"])
    lowest = min(point["macs_kept"] for point in points)
    x = Axis(1.0, min(0.9, math.floor(lowest * 10) / 10), LEFT, width - RIGHT)
    metric_limit = None if floor["max_drop"] is None else before - floor["max_drop"]
    panels = [
        (0, f"validation {name}, %", "after_recovery", metric_limit),
        (HEIGHT, "drift of the heatmaps, % (1 − rank correlation)", "drift", floor["max_drift"]),
    ]
    said = (
        f"{name} and drift of {len(points) - 1} networks; the chosen one keeps "
        f"{percent(chosen['macs_kept'])} of the MACs"
    )
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    parts = [
        f'<svg{namespace} viewBox="0 0 {width} {2 * HEIGHT}" role="img" '
        f'aria-label="{escape(said)}">',
        f"<style>{STYLE}</style>" if alone else "",
    ]
    for top, title, key, limit in panels:
        parts += _panel(points, x, top, str(escape(title)), key, limit, chosen, width)
    parts += ["</svg>"]
    return Markup("".join(parts))


def _panel(
    points: Sequence[Mapping[str, Any]],
    x: Axis,
    top: int,
    title: str,
    key: str,
    limit: float | None,
    chosen: Mapping[str, Any],
    width: int,
) -> list[str]:
    known = [(point, float(point[key] or 0.0)) for point in points]  # the original has no drift
    values = [value for _, value in known] + ([limit] if limit is not None else [])
    y = Axis.around(values, top + HEIGHT - BOTTOM, top + TOP)
    right = width - RIGHT
    line = " ".join(f"{x(p['macs_kept']):.1f},{y(value):.1f}" for p, value in known)
    marked = next(value for point, value in known if point is chosen)
    return [
        f'<text x="0" y="{top + 14}">{title}</text>',
        *(
            f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{tick(t)}</text>'
            for t in y.ticks(5)
        ),
        *(
            f'<text x="{x(t):.1f}" y="{top + HEIGHT - BOTTOM + 20}" text-anchor="middle">'
            f"{tick(t)}</text>"
            for t in x.ticks(10 if width > 500 else 5)
        ),
        f'<text x="{(LEFT + right) / 2:.1f}" y="{top + HEIGHT - 6}" text-anchor="middle">'
        "share of MACs kept, %</text>",
        ""
        if limit is None
        else f'<line class="was" x1="{LEFT}" x2="{right}" y1="{y(limit):.1f}" '
        f'y2="{y(limit):.1f}"/>',
        f'<polyline class="after" points="{line}"/>',
        *(
            circle(
                "after" if point["good"] else "before",
                (x(point["macs_kept"]), y(value)),
                f"step {point['step']}: {percent(point['macs_kept'])} of the MACs, "
                f"{percent(value)}",
                4.5,
            )
            for point, value in known
        ),
        f'<circle class="chosen" cx="{x(chosen["macs_kept"]):.1f}" cy="{y(marked):.1f}" r="9"/>',
    ]
