"""The reliability curve as SVG: how sure a network was against how often it was right."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from debride.evidence.calibration import Bin, Calibration
from debride.report.charts import Axis, circle, tick

SIDE = 320
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 44
MOST = 12
"""Curves drawn; a multi-label task has one a label."""


def curves(calibration: Calibration, classes: Sequence[str]) -> list[tuple[str, Markup]]:
    """Draw the first curves of a calibration, each with what it is of."""
    drawn = []
    for curve in calibration["curves"][:MOST]:
        of = "the decision" if curve["of"] is None else classes[curve["of"]]
        drawn.append((of, reliability(curve["original"], curve["model"], of)))
    return drawn


def reliability(original: Sequence[Bin] | None, model: Sequence[Bin], of: str) -> Markup:
    """Draw how often what a network was so sure of came true; on the diagonal, it is as it says.

    Parameters
    ----------
    original, model
        Bins of the two networks; circles are larger where there are more images.
    of
        What the probability is of.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    x, y = Axis(0, 1, LEFT, SIDE - RIGHT), Axis(0, 1, SIDE - BOTTOM, TOP)
    series = [("before", original or []), ("after", model)]
    most = max((bin["images"] for _, bins in series for bin in bins), default=1)
    ends = f'x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"'
    drawing = [
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{_in_words(model, of)}">',
        *(
            f'<line class="grid" x1="{LEFT}" x2="{SIDE - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{tick(t)}</text>'
            f'<text x="{x(t):.1f}" y="{SIDE - BOTTOM + 18}" text-anchor="middle">{tick(t)}</text>'
            for t in (0.0, 0.25, 0.5, 0.75, 1.0)
        ),
        '<text x="0" y="14">came true, %</text>',
        f'<text x="{(LEFT + SIDE - RIGHT) / 2:.1f}" y="{SIDE - 6}" text-anchor="middle">'
        f"probability of {escape(of)}, %</text>",
        f'<line class="was" {ends}/>',
        *(
            circle(
                style,
                (x(bin["confidence"]), y(bin["frequency"])),
                f"{tick(bin['confidence'])} % sure, {tick(bin['frequency'])} % true, "
                f"{bin['images']} images",
                2 + 6 * (bin["images"] / most) ** 0.5,
            )
            for style, bins in series
            for bin in bins
        ),
        "</svg>",
    ]
    return Markup("".join(drawing))


def _in_words(bins: Sequence[Bin], of: str) -> str:
    said = "; ".join(
        f"{tick(bin['confidence'])}% sure, {tick(bin['frequency'])}% true of {bin['images']} images"
        for bin in bins
    )
    return str(escape(f"Reliability of the probability of {of}: {said}."))
