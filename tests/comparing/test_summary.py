from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from debride.comparing.figures import figure
from debride.comparing.summary import Mean, crossing, lines_of, removed_at, rows_of
from debride.comparing.tables import as_csv, page


def _point(
    budget: float, validation: float, test: float, tuned: float | None = None, **alike: float
) -> Any:
    measured = {"accuracy": test, "balanced_accuracy": test, "roc_auc": None}
    return {
        "budget": budget,
        "step": 0 if budget == 1 else 1,
        "macs_kept": budget,
        "params_kept": budget**2,
        "units_kept": budget,
        "normalise": None,
        "before_recovery": validation - 0.1,
        "after_recovery": validation,
        "test": measured,
        **alike,
        "finetuned": None
        if tuned is None
        else {"after_recovery": tuned, "test": {**measured, "balanced_accuracy": tuned}},
    }


def _cell(criterion: str, seed: int, *points: Any) -> dict[str, Any]:
    return {
        "network": "net", "data": "scans", "seed": seed, "criterion": criterion,
        "points": list(points),
    }  # fmt: skip


CELLS = [
    _cell(
        "good", 0, _point(1, 0.9, 0.92), _point(0.5, 0.895, 0.915), _point(0.2, 0.85, 0.875, 0.9)
    ),
    _cell(
        "good",
        1,
        _point(1, 0.9, 0.92, same_decisions=1.0, heatmaps=1.0),
        _point(0.5, 0.91, 0.925, same_decisions=0.96, heatmaps=0.9),
        _point(0.2, 0.89, 0.905, same_decisions=0.9, heatmaps=0.5),
    ),
    _cell("bad", 0, _point(1, 0.9, 0.92), _point(0.5, 0.8, 0.82), _point(0.2, 0.5, 0.5)),
]


def test_losses_are_points_against_the_cell_s_own_original() -> None:
    rows = rows_of(CELLS)
    assert len(rows) == 10
    found = {(r["criterion"], r["seed"], r["budget"], r["stage"]): r for r in rows}
    assert found["good", 0, 0.5, "repaired"]["validation_loss"] == pytest.approx(0.5)
    assert found["good", 1, 0.5, "repaired"]["test_loss"] == pytest.approx(-0.5)
    assert found["good", 0, 0.2, "finetuned"]["test_loss"] == pytest.approx(2.0)


def test_the_loss_is_of_the_metric_that_the_cell_names() -> None:
    points = [_point(1, 0.9, 0.9), _point(0.5, 0.9, 0.8)]
    for point, auc in zip(points, (0.95, 0.94), strict=True):
        point["test"] = {**point["test"], "roc_auc": auc}
    rows = rows_of([{**_cell("lrp", 0, *points), "metric": "roc_auc"}])
    assert rows[1]["test_loss"] == pytest.approx(1.0)


def test_the_smallest_within_a_point_of_validation() -> None:
    rows = rows_of(CELLS[:1])
    best = removed_at([row for row in rows if row["stage"] == "repaired"], 0.01)
    assert best is not None
    assert (best["budget"], best["macs_removed"], best["params_removed"]) == (0.5, 0.5, 0.75)
    assert removed_at(rows_of(CELLS[2:]), 0.01) is None


def test_where_the_test_curve_crosses() -> None:
    rows = [row for row in rows_of(CELLS[:1]) if row["stage"] == "repaired"]
    # lost 0.5 points at 0.5 and 4.5 at 0.2: one point lies an eighth of the way
    assert crossing(rows, 0.01) == pytest.approx(0.5 + 0.3 / 8)
    assert crossing(rows_of(CELLS[2:]), 0.01) == pytest.approx(0.05)
    assert crossing(rows, 0.05) == pytest.approx(0.8)


def test_lines_are_means_over_seeds_the_best_first() -> None:
    lines = lines_of(rows_of(CELLS))
    named = [(line.criterion, line.stage) for line in lines]
    assert named == [("good", "repaired"), ("bad", "repaired"), ("good", "finetuned")]
    good = lines[0]
    assert good.macs_removed == Mean(pytest.approx(0.65), None, 2)
    assert good.losses[0.2].value == pytest.approx((4.5 + 1.5) / 2)
    assert good.test_loss.value == pytest.approx((0.5 + 1.5) / 2)
    assert good.mean_loss.value == pytest.approx(((0.5 + 4.5) / 2 + (-0.5 + 1.5) / 2) / 2)
    # one of the two cells measured it
    assert good.same_decisions == Mean(pytest.approx(0.93), None, 1)
    assert good.heatmaps == Mean(pytest.approx(0.7), None, 1)
    assert lines[1].macs_removed == Mean(0.0, None, 1)
    assert lines[1].heatmaps is None
    assert (good.uncrossed, lines[1].uncrossed) == (False, False)
    assert lines_of(rows_of([_cell("up", 0, _point(1, 0.9, 0.9), _point(0.5, 0.9, 0.9))]))[
        0
    ].uncrossed
    # the network was tuned at one budget, and lost a point there
    assert lines[2].macs_removed.value == pytest.approx(0.8)
    assert lines[2].losses[0.2].value == pytest.approx(2.0)
    assert (lines[2].mean_loss, lines[2].test_macs_removed) == (None, None)


def test_the_page_and_the_table_say_the_same() -> None:
    text = page(lines_of(rows_of(CELLS)), "figures")
    assert "| bad | 1 | 0 % | 0 % | 0.0 | 5 % | 26.0 |  |  | 10.0 | 42.0 |" in text
    assert "| 1.5 | 93 % | 0.70 | 0.0 | 3.0 |" in text
    assert "| good, fine-tuned | 1 | 80 % | 96 % | 2.0 |  |  |  |  |" in text
    table = list(csv.DictReader(io.StringIO(as_csv(rows_of(CELLS)))))
    assert len(table) == 10
    assert float(table[1]["test_loss"]) == pytest.approx(0.5)


def test_three_seeds_have_an_interval() -> None:
    ends = (0.89, 0.88, 0.87)
    seeds = [_cell("lrp", s, _point(1, 0.9, 0.9), _point(0.5, 0.9, e)) for s, e in enumerate(ends)]
    (line,) = lines_of(rows_of(seeds))
    assert line.mean_loss == Mean(pytest.approx(2.0), pytest.approx(2.4841, abs=1e-3), 3)
    assert "| 2.0 ± 2.5 |" in page([line], "figures")


def test_a_figure_names_what_is_lost() -> None:
    cell = _cell("lrp", 0, _point(1, 0.9, 0.9), _point(0.5, 0.9, 0.8))
    assert ">balanced accuracy lost on test, points<" in figure(rows_of([cell]), "")
    for point in cell["points"]:
        point["test"] = {**point["test"], "roc_auc": 0.9}
    assert ">macro ROC AUC lost" in figure(rows_of([{**cell, "metric": "roc_auc"}]), "")


def test_a_figure_draws_the_ten_best() -> None:
    many = [
        _cell(f"c{k}", 0, _point(1, 0.9, 0.9), _point(0.5, 0.9, 0.88 - k / 100)) for k in range(12)
    ]
    drawn = figure(rows_of(many[::-1]), "net, scans")
    assert "the 10 best of 12" in drawn
    assert ">c9<" in drawn
    assert ">c10<" not in drawn


def test_heatmaps_have_a_panel_of_their_own_where_they_were_measured() -> None:
    assert "rank correlation of heatmaps" in figure(rows_of(CELLS), "net, scans")
    assert "rank correlation of heatmaps" not in figure(rows_of(CELLS[2:]), "net, scans")
