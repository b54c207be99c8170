"""Accuracy and heatmaps under corruptions as small curves, one picture a corruption."""

from __future__ import annotations

from markupsafe import Markup

from debride.evidence.robustness import Robustness
from debride.report.charts import panel


def multiples(robustness: Robustness) -> list[tuple[str, str, Markup, Markup | None]]:
    """Draw of each corruption the accuracy and, where heatmaps were made, their drift.

    Returns
    -------
    list of tuple
        Name; unit and levels; balanced accuracy from clean (0) to severe (5); drift.
    """
    drawn = []
    for name, curves in robustness["corruptions"].items():
        series = [("after", robustness["clean_model"], curves["model"])]
        if curves["original"] is not None and robustness["clean_original"] is not None:
            series.insert(0, ("before", robustness["clean_original"], curves["original"]))
        accuracy = [(style, [clean, *curve["balanced_accuracy"]]) for style, clean, curve in series]
        drift = [(style, [0.0, *curve["drift"]]) for style, _, curve in series if curve["drift"]]
        along = [str(severity) for severity in range(len(curves["levels"]) + 1)]
        drawn.append(
            (
                name,
                f"{curves['unit']}, {curves['levels'][0]:g} to {curves['levels'][-1]:g}",
                panel("balanced accuracy, %", accuracy, along),
                panel("drift of heatmaps, %", drift, along) if drift else None,
            )
        )
    return drawn
