"""What finished cells say: one row a network, and each criterion's means over seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

Row = dict[str, Any]

STAGES = ("repaired", "finetuned")
METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
ALIKE = ("same_decisions", "heatmaps")


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes
    ----------
    value : float
    half : float or None
        Half the width of its 95 % confidence interval (Student's t); None for fewer than three
        seeds, of which it says nothing.
    count : int
    """

    value: float
    half: float | None
    count: int


@dataclass(frozen=True)
class Line:
    """What one criterion reached on one network and data.

    Attributes
    ----------
    network, data, criterion, stage : str
    losses : mapping of float to Mean
        Budget → test balanced accuracy lost, in points.
    macs_removed, params_removed : Mean
        Of the smallest network that lost at most a point of validation balanced accuracy.
    test_loss : Mean
        What that network lost on the test images, in points.
    test_macs_removed : Mean or None
        Share of the MACs at which the test curve first crosses a loss of one point; all that was
        removed where it never does. None for fine-tuned networks, which are no curve.
    uncrossed : bool
        Whether the curve of a seed never crosses it: the share is more than is said.
    mean_loss : Mean or None
        Of all budgets, on the test images: less a matter of luck than where a line is crossed.
        None for fine-tuned networks, which are of some budgets only.
    same_decisions, heatmaps : Mean or None
        Of all budgets, on the test images: the share decided as the original does, and the rank
        correlation of the heatmaps with the original's. None where a cell did not measure it, and
        for fine-tuned networks.
    """

    network: str
    data: str
    criterion: str
    stage: str
    losses: Mapping[float, Mean]
    macs_removed: Mean
    params_removed: Mean
    test_loss: Mean
    test_macs_removed: Mean | None = None
    uncrossed: bool = False
    mean_loss: Mean | None = None
    same_decisions: Mean | None = None
    heatmaps: Mean | None = None


def rows_of(cells: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Give one flat row for every measured network of finished cells.

    Losses are in points of the cell's metric (balanced accuracy, or macro ROC AUC where images have
    several labels) against its own original, negative where the smaller network is better.
    """
    rows = []
    for cell in cells:
        points = cell["points"]
        whole = next(point for point in points if point["step"] == 0)
        metric = cell.get("metric", "balanced_accuracy")  # earlier cells name none
        for point in points:
            for stage in STAGES:
                seen = point if stage == "repaired" else point["finetuned"]
                if seen is None:
                    continue
                rows.append(
                    {
                        **{key: cell[key] for key in ("network", "data", "seed", "criterion")},
                        "stage": stage,
                        "metric": metric,
                        "budget": point["budget"],
                        **{key: point[key] for key in ("macs_kept", "params_kept", "units_kept")},
                        "normalise": point["normalise"],
                        "validation_before_repair": point["before_recovery"],
                        "validation": seen["after_recovery"],
                        **{f"test_{name}": seen["test"][name] for name in METRICS},
                        # cells of earlier versions have none
                        **{f"test_{name}": seen.get(name) for name in ALIKE},
                        "validation_loss": 100 * (whole["after_recovery"] - seen["after_recovery"]),
                        "test_loss": 100 * (whole["test"][metric] - seen["test"][metric]),
                    }
                )
    return rows


def named(criterion: str, stage: str) -> str:
    """Call a line as tables and figures do.

    Examples
    --------
    >>> named("lrp", "repaired"), named("lrp", "finetuned")
    ('lrp', 'lrp, fine-tuned')
    """
    return criterion + (", fine-tuned" if stage == "finetuned" else "")


def removed_at(rows: Sequence[Row], loss: float) -> Row | None:
    """Return the smallest network that lost at most so much on validation, None for the original.

    Parameters
    ----------
    rows : sequence of dict
        Of one cell and stage.
    loss : float
        As a share: 0.01 is a point.
    """
    good = [row for row in rows if row["validation_loss"] <= 100 * loss + 1e-9]
    best = min(good, key=lambda row: row["macs_kept"], default=None)
    if best is None or best["budget"] == 1:
        return None
    removed = {f"{what}_removed": 1 - best[f"{what}_kept"] for what in ("macs", "params")}
    return {**best, **removed}


def crossing(rows: Sequence[Row], loss: float) -> float:
    """Return the share of MACs removed where the test curve first crosses a loss.

    Between two networks the curve is a straight line; it starts at the original.

    Examples
    --------
    >>> way = [{"macs_kept": 1.0, "test_loss": 0.0}, {"macs_kept": 0.5, "test_loss": 2.0}]
    >>> crossing(way, 0.01)
    0.25
    """
    way = sorted(rows, key=lambda row: -row["macs_kept"])
    for before, after in itertools.pairwise(way):
        if after["test_loss"] > 100 * loss:
            rise = after["test_loss"] - before["test_loss"]
            part = (100 * loss - before["test_loss"]) / rise
            removed: float = 1 - before["macs_kept"]
            return removed + float(part * (before["macs_kept"] - after["macs_kept"]))
    return 1 - float(way[-1]["macs_kept"]) if way else 0.0


def lines_of(rows: Sequence[Row], loss: float = 0.01) -> list[Line]:
    """Sum rows up: one line for each network, data, criterion and stage.

    Those of the lowest mean loss come first.
    """
    found: dict[tuple[str, ...], dict[int, list[Row]]] = {}
    for row in rows:
        key = (row["network"], row["data"], row["criterion"], row["stage"])
        found.setdefault(key, {}).setdefault(row["seed"], []).append(row)
    lines = []
    for (network, data, criterion, stage), seeds in found.items():
        repaired = found[network, data, criterion, "repaired"]
        ways = [
            # a fine-tuned network comes after the original too
            way if stage == "repaired" else [r for r in repaired[s] if r["budget"] == 1] + way
            for s, way in seeds.items()
        ]
        best = [removed_at(way, loss) for way in ways]
        budgets = sorted({row["budget"] for way in ways for row in way} - {1}, reverse=True)
        lines.append(
            Line(
                network,
                data,
                criterion,
                stage,
                {
                    budget: mean(
                        row["test_loss"] for way in ways for row in way if row["budget"] == budget
                    )
                    for budget in budgets
                },
                mean(row["macs_removed"] if row else 0.0 for row in best),
                mean(row["params_removed"] if row else 0.0 for row in best),
                mean(row["test_loss"] if row else 0.0 for row in best),
                **(_curve(ways, loss) if stage == "repaired" else {}),
            )
        )
    return sorted(lines, key=_place)


def _place(line: Line) -> tuple[str, str, int, float]:
    lost = float(np.mean([found.value for found in line.losses.values()] or [0.0]))
    return line.network, line.data, STAGES.index(line.stage), lost


def _curve(ways: Sequence[Sequence[Row]], loss: float) -> dict[str, Any]:
    """Give what a line says of a whole curve: where it crosses, and its means."""
    return {
        "test_macs_removed": mean(crossing(way, loss) for way in ways),
        "uncrossed": any(all(row["test_loss"] <= 100 * loss for row in way) for way in ways),
        "mean_loss": _over_budgets(ways, "test_loss"),
        **{name: _over_budgets(ways, f"test_{name}") for name in ALIKE},
    }


def _over_budgets(ways: Sequence[Sequence[Row]], name: str) -> Mean | None:
    """Mean what every network of a seed has, over the seeds that have it."""
    values = ([row[name] for row in way if row["budget"] != 1] for way in ways)
    found = [float(np.mean(each)) for each in values if each and None not in each]
    return mean(found) if found else None


def mean(values: Iterable[float]) -> Mean:
    """Give the mean of seeds and its confidence interval.

    Examples
    --------
    >>> mean([1.0, 2.0, 3.0])
    Mean(value=2.0, half=2.484..., count=3)
    """
    found = np.array(list(values), dtype=np.float64)
    if len(found) < 3:
        return Mean(float(found.mean()), None, len(found))
    spread = float(found.std(ddof=1)) / math.sqrt(len(found))
    return Mean(float(found.mean()), float(student.ppf(0.975, len(found) - 1)) * spread, len(found))
