"""How far heatmaps moved, beside the yardsticks, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from debride.evidence.likeness import Quantiles
from debride.evidence.reasons import Reasons, Yardstick
from debride.report.charts import Axis, panel
from debride.report.words import number

LEFT, RIGHT, TOP, ROW, BOTTOM = 116, 14, 26, 34, 40
MEASURES = {
    "spearman": "Rank correlation",
    "ssim": "Structural similarity",
    "cosine": "Cosine",
    "top10_iou": "Top tenth, intersection over union",
    "centre_shift": "Centre moved, of the diagonal",
}


def name_of(yardstick: Yardstick) -> str:
    """Name a yardstick for a reader.

    Examples
    --------
    >>> name_of({"kind": "noise", "level": 0.05, "likeness": {}, "beyond": {}})
    'noise 0.05 σ'
    """
    return "retrained" if yardstick["level"] is None else f"noise {yardstick['level']:g} σ"


def boxes(reasons: Reasons, width: int, measure: str = "spearman") -> Markup:
    """Draw how a measure is spread over images: before and after, and of each yardstick.

    Boxes hold the middle half of the images, lines nine tenths; the band behind them is the nine
    tenths of the last yardstick of noise.

    Parameters
    ----------
    reasons
        Of one method.
    width
        Of the drawing, in pixels at its natural size.
    measure
        A name of `likeness.MEASURES`.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    rows: list[tuple[str, str, Quantiles]] = []
    likeness = reasons["likeness"]
    if likeness is not None and (found := likeness["quantiles"][measure]) is not None:
        rows.append(("after", "pruned", found))
    for yardstick in reasons["yardsticks"]:
        if (found := yardstick["likeness"]["quantiles"][measure]) is not None:
            rows.append(("before", name_of(yardstick), found))
    if not rows:
        return Markup("")
    height = TOP + ROW * len(rows) + BOTTOM
    least = min(0.0, *(each["q05"] for _, _, each in rows))
    x = Axis(max(-1.0, least), 1.0, LEFT, width - RIGHT)
    said = "; ".join(f"{name}: median {number(each['q50'])}" for _, name, each in rows)
    title = MEASURES[measure]
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}. '
        f'{escape(said)}">',
        f'<text x="0" y="14">{escape(title)} of heatmaps</text>',
    ]
    noises = [each for each in reasons["yardsticks"] if each["kind"] == "noise"]
    band = noises[-1]["likeness"]["quantiles"][measure] if noises else None
    if band is not None:
        parts.append(
            f'<rect class="band" x="{x(band["q05"]):.1f}" y="{TOP}" '
            f'width="{x(band["q95"]) - x(band["q05"]):.1f}" height="{ROW * len(rows)}"/>'
        )
    for place, (style, name, each) in enumerate(rows):
        parts += _box(x, TOP + ROW * (place + 0.5), style, name, each)
    for t in x.ticks(6):
        parts.append(
            f'<text x="{x(t):.1f}" y="{height - BOTTOM + 20}" text-anchor="middle">'
            f"{number(t)}</text>"
        )
    return Markup("".join([*parts, "</svg>"]))


def _box(x: Axis, y: float, style: str, name: str, each: Quantiles) -> list[str]:
    q05, q25, q50, q75, q95 = (x(each[key]) for key in ("q05", "q25", "q50", "q75", "q95"))
    said = f"{name}: median {number(each['q50'])}, half of the images between "
    said += f"{number(each['q25'])} and {number(each['q75'])}"
    return [
        f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>',
        f'<line class="whisker {style}" x1="{q05:.1f}" x2="{q95:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<rect class="box {style}" x="{q25:.1f}" y="{y - 8:.1f}" '
        f'width="{max(q75 - q25, 1):.1f}" height="16"><title>{escape(said)}</title></rect>',
        f'<line class="median {style}" x1="{q50:.1f}" x2="{q50:.1f}" y1="{y - 8:.1f}" '
        f'y2="{y + 8:.1f}"/>',
    ]


def rows_of(reasons: Reasons) -> list[tuple[str, list[str]]]:
    """Give the table: of each measure its medians, and what share went beyond each yardstick."""
    columns: list[Mapping[str, Quantiles | None]] = []
    if reasons["likeness"] is not None:
        columns.append(reasons["likeness"]["quantiles"])
    columns += [each["likeness"]["quantiles"] for each in reasons["yardsticks"]]
    table = []
    for measure, title in MEASURES.items():
        cells = [_median(column[measure]) for column in columns]
        for yardstick in reasons["yardsticks"]:
            if reasons["likeness"] is not None:
                cells.append(_share(yardstick["beyond"][measure]))
        table.append((title, cells))
    return table


def headings_of(reasons: Reasons) -> list[str]:
    """Name the columns of the table."""
    names = [name_of(each) for each in reasons["yardsticks"]]
    if reasons["likeness"] is None:
        return names
    return ["pruned", *names, *(f"beyond {name}" for name in names)]


def faithfulness(reasons: Reasons) -> list[Markup]:
    """Draw how the class fares while the most relevant pixels go, and come."""
    found = reasons["faithfulness"]
    if found is None:
        return []
    drawings = []
    for title, key in (
        ("pixels go: probability, %", "deletion_curve"),
        ("pixels come: probability, %", "insertion_curve"),
    ):
        series = [("after", found["model"][key])]  # type: ignore[literal-required]
        if found["original"] is not None:
            series.insert(0, ("before", found["original"][key]))  # type: ignore[literal-required]
        steps = len(series[0][1]) - 1
        along = ["" if k % (steps // 2 or 1) else f"{100 * k // steps}" for k in range(steps + 1)]
        drawings.append(panel(title, series, along))
    return drawings


def by_class(
    reasons: Reasons, classes: Sequence[str], measure: str = "spearman"
) -> list[tuple[str, int, str, str, str]]:
    """Give of each class its images, median and lowest tenth, and what went beyond."""
    if reasons["classes"] is None:
        return []
    nothing: list[float | None] = [None] * len(classes)
    shares = reasons["yardsticks"][-1].get("classes", {}).get(measure, nothing)
    return [
        (name, found["images"], number(found["q50"]), number(found["q10"]), _share(share))
        for name, found, share in zip(classes, reasons["classes"][measure], shares, strict=True)
        if found is not None
    ]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _median(found: Quantiles | None) -> str:
    return number(None if found is None else found["q50"])
