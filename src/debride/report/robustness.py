"""Accuracy and heatmaps under corruptions as small curves, one picture a corruption."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from debride.evidence.robustness import Robustness
from debride.report.charts import Axis, tick

WIDTH, HEIGHT = 240, 168
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 28, 24


def multiples(robustness: Robustness) -> list[tuple[str, Markup, Markup | None]]:
    """Draw of each corruption the accuracy and, where heatmaps were made, their drift.

    Returns
    -------
    list of tuple
        Name and unit; balanced accuracy from clean (0) to severe (5); drift.
    """
    drawn = []
    for name, curves in robustness["corruptions"].items():
        series = [("after", robustness["clean_model"], curves["model"])]
        if curves["original"] is not None and robustness["clean_original"] is not None:
            series.insert(0, ("before", robustness["clean_original"], curves["original"]))
        accuracy = [(style, [clean, *curve["balanced_accuracy"]]) for style, clean, curve in series]
        drift = [(style, [0.0, *curve["drift"]]) for style, _, curve in series if curve["drift"]]
        drawn.append(
            (
                f"{name}: {curves['unit']}, {curves['levels'][0]:g} to {curves['levels'][-1]:g}",
                _panel(f"{name}, balanced accuracy %", accuracy),
                _panel(f"{name}, drift of heatmaps %", drift) if drift else None,
            )
        )
    return drawn


def _panel(title: str, series: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    y = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    x = Axis(0, len(series[0][1]) - 1, LEFT, WIDTH - RIGHT)
    said = "; ".join(
        f"{'original' if style == 'before' else 'network'} from {tick(values[0])} to "
        f"{tick(values[-1])}"
        for style, values in series
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: '
        f'{escape(said)}">',
        f'<text x="0" y="14">{escape(title)}</text>',
        *(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{tick(t)}</text>'
            for t in (0.0, 0.5, 1.0)
        ),
        *(
            f'<text x="{x(t):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{t}</text>'
            for t in range(len(series[0][1]))
        ),
    ]
    for style, values in series:
        line = " ".join(
            f"{x(t):.1f},{y(min(max(value, 0.0), 1.0)):.1f}" for t, value in enumerate(values)
        )
        parts.append(f'<polyline class="{style}" points="{line}"/>')
    return Markup("".join([*parts, "</svg>"]))
