"""Where a search cuts next, and what it says: decisions without networks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from debride.errors import DebrideError
from debride.planning.search import (
    MOST_HALVINGS,
    RESOLUTION,
    Curve,
    Descent,
    Floor,
    Move,
    Search,
    StepRecord,
    read_floor,
)

FIRST = StepRecord(0, 1.0, 1.0, 1.0, 0.9, 0.9)


def _walk(
    search: Search, good: Callable[[float], bool], reached: Callable[[float], float] = lambda x: x
) -> list[StepRecord]:
    points = [FIRST]
    while (move := search.next(points)) is not None:
        macs = reached(move.target)
        points.append(
            replace(
                FIRST,
                step=len(points),
                macs_kept=macs,
                start=move.start,
                good=good(macs),
                drop_bound=0.0,
                drift=0.1,
            )
        )
        assert len(points) < 60, "it does not end"
    return points


def test_a_descent_takes_the_same_part_in_every_step() -> None:
    descent, points = Descent.to(0.25, steps=2), [FIRST]
    assert descent.next(points) == Move(0, 0.5, strict=False)
    points.append(replace(FIRST, step=1, macs_kept=0.51))
    assert descent.next(points) == Move(1, 0.25, strict=True)
    points.append(replace(FIRST, step=2, macs_kept=0.51))
    assert descent.next(points) is None
    assert descent.chosen(points).step == 2


@pytest.mark.parametrize("edge", [0.95, 0.81, 0.79, 0.33, 0.12])
def test_a_search_ends_next_to_the_edge(edge: float) -> None:
    search = Search(lowest=0.05, factor=0.8)
    points = _walk(search, lambda macs: macs >= edge)
    chosen = search.chosen(points)
    assert edge <= chosen.macs_kept <= edge + max(RESOLUTION, 0.2 / 2**MOST_HALVINGS)
    bad = [point for point in points if not point.good]
    assert max(point.macs_kept for point in bad) < edge
    assert all(points[point.start or 0].good for point in points[1:]), "cuts start from good ones"
    assert all(point.macs_kept < points[point.start or 0].macs_kept for point in points[1:])


def test_a_search_goes_down_to_the_floors_of_the_groups_and_ends() -> None:
    search = Search(lowest=0.3, factor=0.8)
    points = _walk(search, lambda macs: True)
    assert [round(point.macs_kept, 3) for point in points] == [
        1,
        0.8,
        0.64,
        0.512,
        0.41,
        0.328,
        0.3,
    ]


def test_a_search_among_coarse_units_ends() -> None:
    search = Search(lowest=0.1, factor=0.8)
    stairs = [1.0, 0.7, 0.69, 0.4]
    points = _walk(search, lambda macs: macs > 0.5, lambda x: min(stairs, key=lambda s: abs(s - x)))
    assert search.chosen(points).macs_kept == 0.69


def test_a_search_that_finds_nothing_is_at_the_original() -> None:
    search = Search(lowest=0.05, factor=0.8)
    points = _walk(search, lambda macs: False)
    assert search.chosen(points).step == 0
    assert len(points) == 2 + MOST_HALVINGS
    said = Floor(0.01, None, 0.95).refusal(
        [FIRST, replace(points[-1], macs_kept=0.985, drop_bound=0.021)], "auc", 750
    )
    assert said.startswith("no cut keeps the floor: with 98.5% of the MACs left auc may be down by")
    assert "0.0210 (allowed: 0.01, at confidence 0.95 with 750 validation images)" in said
    assert "every group is at its floor" in Floor(0.01, None, 0.95).refusal([FIRST], "auc", 9)


def test_a_floor_holds_where_all_of_it_does() -> None:
    both = Floor(0.01, 0.2, 0.95)
    assert both.holds(0.01, 0.2)
    assert not both.holds(0.011, 0.2)
    assert not both.holds(0.01, 0.21)
    assert Floor(None, 0.2, 0.95).holds(0.5, 0.1)
    assert Floor(0.01, None, 0.95).holds(0.0, 0.9)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0.01, None, None, 0.95, {"macs": 0.5}), r"a budget \(macs\) or a floor"),
        ((1.5, None, None, 0.95, {}), "max_drop=1.5: give a number from 0 to 1"),
        ((None, -0.1, None, 0.95, {}), "max_drift=-0.1"),
        ((0.01, None, None, 0.3, {}), "confidence=0.3: give a number from 0.5"),
        ((None, None, "auc", 0.95, {}), "the metric 'auc' is for a search"),
    ],
)
def test_floors_that_make_no_sense_are_refused(given: tuple, words: str) -> None:
    with pytest.raises(DebrideError, match=words):
        read_floor(*given)


def test_no_floor_is_no_search() -> None:
    assert read_floor(None, None, None, 0.95, {"macs": 0.5}) is None
    assert read_floor(0.01, 0.2, "auc", 0.9, {"macs": None}) == Floor(0.01, 0.2, 0.9)


@pytest.fixture
def curve() -> Curve:
    points = tuple(
        replace(FIRST, step=step, macs_kept=macs, good=step < 3)
        for step, macs in enumerate([1.0, 0.8, 0.3004, 0.25])
    )
    seconds = {"evaluation": 2.0, "attribution": 7.0, "search": 30.0}
    return Curve(points, 2, "auc", Floor(0.01, None, 0.95), seconds)


@pytest.mark.parametrize(("asked", "step"), [(0.9, 1), (0.8, 1), (0.5, 2), (0.3, 2), (0.29, 3)])
def test_the_largest_visited_network_under_a_share(curve: Curve, asked: float, step: int) -> None:
    assert curve.at(asked).step == step


def test_nothing_so_small_was_visited(curve: Curve) -> None:
    with pytest.raises(
        DebrideError, match=r"keeps 0.2 of the MACs or less: the smallest keeps 0.250"
    ):
        curve.at(0.2)


def test_the_table_of_a_curve_has_every_point(curve: Curve) -> None:
    rows = list(csv.DictReader(io.StringIO(curve.to_csv())))
    assert [row["macs_kept"] for row in rows] == ["1.0", "0.8", "0.3004", "0.25"]
    assert [row["chosen"] for row in rows] == ["False", "False", "True", "False"]
    assert rows[0]["drift"] == ""
    assert curve.evaluations == 15
