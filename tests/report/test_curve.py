"""The picture of a search: every network where it belongs, the limits, the one that was taken."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from debride.planning.search import Curve, Floor, StepRecord
from debride.report import render
from debride.report.curve import picture

from .made_up import make_evidence, make_run

FIRST = StepRecord(0, 1.0, 1.0, 1.0, 0.9, 0.9)


def _curve(**changes: Any) -> Curve:
    visited = [(0.8, 0.895, True), (0.5, 0.84, False), (0.63, 0.892, True)]
    points = [FIRST]
    for step, (macs, metric, good) in enumerate(visited, start=1):
        points.append(
            replace(
                FIRST,
                step=step,
                macs_kept=macs,
                after_recovery=metric,
                good=good,
                drift=0.1 * step,
                drop_bound=0.9 - metric + 0.002,
                start=step - 1,
            )
        )
    seconds = {"evaluation": 2.0, "attribution": 7.0, "search": 30.0}
    fields: dict[str, Any] = {"metric": "balanced_accuracy", "floor": Floor(0.01, 0.35, 0.95)}
    return Curve(tuple(points), 3, seconds=seconds, **{**fields, **changes})


def _circles(svg: str, kind: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<circle class="{kind}" cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_every_network_is_drawn_twice_and_the_taken_one_is_ringed() -> None:
    svg = picture(_curve().to_dict(), alone=True)
    ElementTree.fromstring(str(svg))
    good, bad, chosen = (_circles(svg, kind) for kind in ("after", "before", "chosen"))
    assert (len(good), len(bad), len(chosen)) == (6, 2, 2)
    assert all(ring in good for ring in chosen)
    # from all MACs on the left to the smallest on the right, better is higher
    assert [x for x, _ in good[:3]] == sorted(x for x, _ in good[:3])
    assert bad[0][0] > good[2][0]
    assert good[0][1] < good[2][1] < bad[0][1]


def test_limits_lie_between_what_keeps_and_what_breaks_them() -> None:
    svg = picture(_curve().to_dict())
    limits = [float(y) for y in re.findall(r'<line class="was"[^>]*y1="([\d.]+)"', svg)]
    assert len(limits) == 2
    taken, bad = _circles(svg, "chosen")[0], _circles(svg, "before")[0]
    assert taken[1] < limits[0] < bad[1]
    alone = picture(_curve(floor=Floor(None, 0.35, 0.95)).to_dict())
    assert alone.count('<line class="was"') == 1


def test_a_class_cannot_write_into_the_page() -> None:
    svg = picture(_curve(metric="recall:0").to_dict(), ("<script>",))
    assert "<script>" not in svg
    assert "recall of &lt;script&gt;" in svg


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["3 networks were cut", "loses at most 1.0", "balanced accuracy went from 90.0"]),
        ({"floor": Floor(None, 0.35, 0.95)}, ["whose heatmaps drift by at most 35.0"]),
        ({"chosen": 2}, ["it breaks the floor and was taken by hand"]),
        (
            {"metric": "auc"},
            ["All visited networks", "ROC AUC", "took as long as 15 evaluations"],
        ),
    ],
)
def test_the_report_says_what_was_searched_and_found(
    changes: dict[str, Any], words: list[str]
) -> None:
    curve = replace(_curve(), **changes)
    html = " ".join(render({**make_run(), "curve": curve.to_dict()}, make_evidence()).split())
    for said in words:
        assert said in html.replace("\u202f", ""), said
    assert "How it was pruned" not in html
