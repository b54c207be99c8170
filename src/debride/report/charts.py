"""The trajectory as SVG: drawn here, coloured by the report's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from debride.report.words import percent

HEIGHT = 276
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 30, 44


def frame(x: Axis, y: Axis, width: int, above: str, *, ticks: int) -> list[str]:
    """Draw the grid of a picture of MACs kept, with its numbers and what its axes say."""
    return [
        *(
            f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{tick(t)}</text>'
            for t in y.ticks(5)
        ),
        *(
            f'<text x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick(t)}</text>'
            for t in x.ticks(ticks)
        ),
        f'<text x="0" y="14">{above}</text>',
        f'<text x="{(LEFT + width - RIGHT) / 2:.1f}" y="{HEIGHT - 6}" '
        'text-anchor="middle">share of MACs kept, %</text>',
    ]


def trajectory(
    history: Sequence[Mapping[str, Any]], width: int, metric: str = "balanced accuracy"
) -> Markup:
    """Draw a validation metric against the share of MACs kept, step by step.

    Parameters
    ----------
    history
        Steps with "macs_kept", "before_recovery" and "after_recovery"; step 0 is the original.
    width
        Of the drawing, in pixels at its natural size: narrow and wide screens get their own.
    metric
        What was measured on validation images after each step.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    values = [float(step[key]) for step in history for key in ("before_recovery", "after_recovery")]
    y = Axis.around(values, HEIGHT - BOTTOM, TOP)
    kept = [float(step["macs_kept"]) for step in history]
    # pruning runs from left (all kept) to right
    x = Axis(max(*kept, 1.0), min(0.9, math.floor(min(kept) * 10) / 10), LEFT, width - RIGHT)
    after = [(x(float(s["macs_kept"])), y(float(s["after_recovery"]))) for s in history]
    before = [(x(float(s["macs_kept"])), y(float(s["before_recovery"]))) for s in history]
    said = _in_words(history, metric)
    drawing = [
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{said}">',
        *frame(x, y, width, f"validation {metric}, %", ticks=10 if width > 500 else 5),
        f'<line class="was" x1="{LEFT}" x2="{width - RIGHT}" '
        f'y1="{after[0][1]:.1f}" y2="{after[0][1]:.1f}"/>',
        *(
            f'<line class="mend" x1="{a[0]:.1f}" x2="{b[0]:.1f}" y1="{a[1]:.1f}" y2="{b[1]:.1f}"/>'
            for a, b in zip(before, after, strict=True)
        ),
        f'<polyline class="after" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in after)}"/>',
        *(
            circle(style, place, said_of(step, key, metric), radius)
            for style, key, places, radius, first in (
                ("before", "before_recovery", before, 4.0, 1),
                ("after", "after_recovery", after, 4.5, 0),
            )
            for step, place in list(zip(history, places, strict=True))[first:]
        ),
        "</svg>",
    ]
    return Markup("".join(drawing))


def circle(style: str, place: tuple[float, float], said: str, radius: float) -> str:
    """Draw a circle that says its values when it is pointed at."""
    return (
        f'<circle class="{style}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{radius:g}">'
        f"<title>{escape(said)}</title></circle>"
    )


def said_of(step: Mapping[str, Any], key: str, metric: str) -> str:
    """Say what a point of a curve stands for."""
    value = step[key]
    kept = percent(float(step["macs_kept"]))
    return f"{kept} of the MACs: {metric} {percent(value)}"


PANEL = (240, 168)
"""Width and height of a small drawing."""


def panel(
    title: str, series: Sequence[tuple[str, Sequence[float]]], along: Sequence[str]
) -> Markup:
    """Draw small curves of shares, 0 to 100 %, at equal distances.

    Parameters
    ----------
    title
        What is drawn, with its unit.
    series
        "before" for the original or "after" for the network, and its values.
    along
        What stands below each value, or nothing.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    width, height = PANEL
    left, right, top, bottom = 38, 16, 28, 24
    y = Axis(0.0, 1.0, height - bottom, top)
    x = Axis(0, len(along) - 1, left, width - right)
    names = {"before": "original", "after": "network"}
    said = "; ".join(
        f"{names[style]} from {tick(values[0])} to {tick(values[-1])}" for style, values in series
    )
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}: '
        f'{escape(said)}">',
        f'<text x="0" y="14">{escape(title)}</text>',
        *(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
            f'<text x="{left - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{tick(t)}</text>'
            for t in (0.0, 0.5, 1.0)
        ),
        *(
            f'<text x="{x(t):.1f}" y="{height - 6}" text-anchor="middle">{escape(label)}</text>'
            for t, label in enumerate(along)
            if label
        ),
    ]
    for style, values in series:
        places = [(x(t), y(min(max(value, 0.0), 1.0))) for t, value in enumerate(values)]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline class="{style}" points="{line}"/>')
        parts += [
            circle(f"dot {style}", place, f"{names[style]} {tick(value)} %", 3)
            for place, value in zip(places, values, strict=True)
        ]
    return Markup("".join([*parts, "</svg>"]))


@dataclass(frozen=True)
class Axis:
    """A linear scale: `low` lies at pixel `begin`, `high` at pixel `end`."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], begin: float, end: float) -> Axis:
        """Scale over the values with some air, never over less than four points."""
        low, high = min(values), max(values)
        air = max(0.08 * (high - low), (0.04 - (high - low)) / 2, 0.004)
        return cls(max(0.0, low - air), min(1.0, high + air), begin, end)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self, most: int) -> list[float]:
        """Give round values on the axis, at most so many."""
        low, high = sorted((self.low, self.high))
        for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5):
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first < most:
                return [k * step for k in range(first, last + 1)]
        return [low, high]


def tick(value: float) -> str:
    """Write a share at an axis, in percent."""
    return f"{value * 100:.1f}".removesuffix(".0")


def _in_words(history: Sequence[Mapping[str, Any]], metric: str) -> str:
    first, last = history[0], history[-1]
    return (
        f"Validation {metric} over {len(history) - 1} steps: "
        f"{percent(first['after_recovery'])} with all MACs, "
        f"{percent(last['after_recovery'])} with {percent(last['macs_kept'])} of them."
    )
