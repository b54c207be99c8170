"""Runs as points: what they keep of the arithmetic, and how well they decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from debride.evidence.intervals import Estimate
from debride.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, Axis, circle, frame
from debride.report.words import percent


@dataclass(frozen=True)
class Point:
    """One network: its name, the share of the MACs it keeps, its figure, and the interval."""

    name: str
    kept: float
    value: float
    interval: Estimate | None
    original: bool = False


def against_macs(points: Sequence[Point], width: int, metric: str) -> Markup:
    """Draw a test metric against the share of MACs kept; points are numbered as in the table.

    Parameters
    ----------
    points
        The original first, where there is one.
    width
        Of the drawing, in pixels at its natural size.
    metric
        What was measured.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    values = [point.value for point in points]
    for point in points:
        if point.interval is not None:
            values += [point.interval["low"], point.interval["high"]]
    y = Axis.around(values, HEIGHT - BOTTOM, TOP)
    x = Axis(1.0, 0.0, LEFT, width - RIGHT)
    said = "; ".join(f"{p.name}: {percent(p.kept)} of the MACs, {percent(p.value)}" for p in points)
    ordered = sorted(points, key=lambda point: -point.kept)
    line = " ".join(f"{x(p.kept):.1f},{y(p.value):.1f}" for p in ordered)
    parts = [
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(metric)}. '
        f'{escape(said)}">',
        *frame(x, y, width, f"{escape(metric)}, %", ticks=11 if width > 500 else 5),
        f'<polyline class="before" points="{line}"/>',
    ]
    labelled: list[tuple[float, float]] = []
    for point in points:
        place = x(point.kept), y(point.value)
        if point.interval is not None:
            low, high = y(point.interval["low"]), y(point.interval["high"])
            parts.append(
                f'<line class="whisker after" x1="{place[0]:.1f}" x2="{place[0]:.1f}" '
                f'y1="{low:.1f}" y2="{high:.1f}"/>'
            )
        text = f"{point.name}: {percent(point.kept)} of the MACs, {metric} {percent(point.value)}"
        parts.append(circle("before" if point.original else "after", place, text, 5))
        if not point.original:
            # numbers of points that lie on each other stand side by side
            near = sum(math.dist(place, other) < 14 for other in labelled)
            labelled.append(place)
            parts.append(
                f'<text x="{place[0] + 9 + 14 * near:.1f}" y="{place[1] - 8:.1f}">'
                f"{len(labelled)}</text>"
            )
    return Markup("".join([*parts, "</svg>"]))
