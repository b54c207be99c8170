"""Latency as a budget: how a measured one is found, and what a table says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from debride import plan, score
from debride.errors import DebrideError
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.latency import Clock, Measured, predicted, table_cost
from debride.surgery import apply

from . import toys

IMAGE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 60, 3, padding=1)
        self.two = nn.Conv2d(60, 80, 3, padding=1)
        self.head = nn.Linear(80, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def wide() -> nn.Module:
    return toys.randomise(Wide())


def _clocked(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, takes: Callable[[float, int], float]
) -> list[float]:
    """Let latency be a function of the MACs kept and of how often it was measured."""
    whole, measured = measure(model, IMAGE).macs, []

    def share(_clock: Clock, smaller: nn.Module, seconds: float | None = None) -> Measured:
        found = takes(measure(smaller, IMAGE).macs / whole, len(measured))
        measured.append(found)
        return Measured(found, found - 0.005, found + 0.005)

    monkeypatch.setattr(Clock, "share", share)
    return measured


@pytest.mark.parametrize("asked", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(
    "takes",
    [
        lambda macs, _: macs,
        lambda macs, _: 0.4 + 0.6 * macs,  # much that no cut shortens
        lambda macs, _: macs**2,
        lambda macs, turn: 0.2 + 0.8 * macs + (0.02 if turn % 2 else -0.02),  # a restless machine
    ],
    ids=["as the operations", "with a fixed part", "faster", "restless"],
)
def test_the_latency_asked_for_is_found(
    wide: nn.Module, monkeypatch: pytest.MonkeyPatch, asked: float, takes: Callable[..., float]
) -> None:
    measured = _clocked(monkeypatch, wide, takes)
    scores = score(wide, [IMAGE], criterion="random")
    made = plan(wide, scores, IMAGE, latency=asked)
    assert takes(made.macs_kept, 0) == pytest.approx(asked, abs=0.05)
    assert len(measured) <= 13
    assert made.made_by["latency"] == asked


def test_a_latency_out_of_reach_names_the_nearest(
    wide: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    _clocked(monkeypatch, wide, lambda macs, _: 0.6 + 0.4 * macs)
    scores = score(wide, [IMAGE], criterion="random")
    words = (
        r"latency of 0.3 cannot be met within 0.05: the nearest measured is 0\.6\d\d \(0\.\d+ to"
    )
    with pytest.raises(DebrideError, match=words):
        plan(wide, scores, IMAGE, latency=0.3)


def test_an_interval_that_holds_the_target_meets_it() -> None:
    assert Measured(0.58, 0.49, 0.66).meets(0.5)
    assert Measured(0.54, 0.53, 0.55).meets(0.5)
    assert not Measured(0.58, 0.51, 0.66).meets(0.5)


def test_a_network_is_as_fast_as_itself_and_comes_back_untouched(wide: nn.Module) -> None:
    wide.train()
    clock = Clock(wide, IMAGE, seconds=0.2)
    found = clock.share(wide)
    assert found.low <= found.share <= found.high or found.share == pytest.approx(1, abs=0.5)
    assert wide.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wide.modules())


def test_the_prediction_shrinks_to_what_is_kept(wide: nn.Module) -> None:
    groups = find_groups(wide, IMAGE).groups
    cost = predicted(wide, groups, IMAGE)
    nothing, half = np.zeros(2), np.array([30.0, 40.0])
    assert cost.fixed == 0
    assert 0.2 < cost(half) / cost(nothing) < 0.55
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in wide.modules())


TABLE: dict[str, Any] = {
    "schema_version": 1,
    "fixed": 1.0,
    "layers": {
        "one": {"inputs": [1], "outputs": [20, 60], "ms": [[1.0, 3.0]]},
        "two": {"inputs": [20, 60], "outputs": [40, 80], "ms": [[1.0, 2.0], [2.0, 6.0]]},
    },
}


def _written(path: Path, table: Any) -> Path:
    (path / "table.json").write_text(json.dumps(table))
    return path / "table.json"


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ((0, 0), 1 + 3 + 6),
        ((40, 0), 1 + 1 + 2),
        ((0, 40), 1 + 3 + 2),
        ((20, 20), 1 + 2 + (1.5 + 4) / 2),
        ((50, 79), 1 + 1 + 1),  # beyond the table: its edge
    ],
)
def test_a_table_is_interpolated(
    wide: nn.Module, tmp_path: Path, removed: tuple[int, int], expected: float
) -> None:
    groups = find_groups(wide, IMAGE).groups
    assert [group.name for group in groups] == ["one", "two"]
    cost = table_cost(_written(tmp_path, TABLE), wide, groups)
    assert cost(np.array(removed, dtype=np.float64)) == pytest.approx(expected)


def test_a_budget_by_a_table_is_met_within_a_hundredth(wide: nn.Module, tmp_path: Path) -> None:
    table = _written(tmp_path, TABLE)
    scores = score(wide, [IMAGE], criterion="random")
    made = plan(wide, scores, IMAGE, latency=0.6, latency_table=table)
    cost = table_cost(table, wide, made.groups)
    removed = np.array([len(group.removed) for group in made.groups], dtype=np.float64)
    assert cost(removed) / cost(np.zeros(2)) == pytest.approx(0.6, abs=0.01)
    assert apply(wide, made)(IMAGE).shape == (1, 3)
    with pytest.raises(DebrideError, match=r"every group at its floor 0\.\d+ is left"):
        plan(wide, scores, IMAGE, latency=0.05, latency_table=table)
    with pytest.raises(DebrideError, match="a latency table is of use with a latency alone"):
        plan(wide, scores, IMAGE, macs=0.5, latency_table=table)


def _with(layer: str, **changes: Any) -> dict[str, Any]:
    layers = {**TABLE["layers"], layer: {**TABLE["layers"].get(layer, {}), **changes}}
    return {**TABLE, "layers": layers}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "is not a latency table"),
        ({**TABLE, "schema_version": 2}, "has schema version 2, this Debride reads 1"),
        ({**TABLE, "layers": {}}, "it has no layers"),
        ({**TABLE, "fixed": -1}, "fixed is below 0"),
        (_with("three", inputs=[1], outputs=[1], ms=[[1]]), "layer 'three' that the network does"),
        (_with("two", outputs=[40, 70]), "the outputs of 'two' must rise up to its 80 channels"),
        (_with("two", inputs=[60, 20]), "the inputs of 'two' must rise"),
        (_with("one", ms=[[1.0, 2.0], [1.0, 2.0]]), "the inputs of 'one' must rise"),
        (_with("one", ms=[[-1.0, 2.0]]), "the milliseconds of 'one' must be 0 or more"),
        (_with("one", ms="fast"), "is not a latency table"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    wide: nn.Module, tmp_path: Path, table: Any, words: str
) -> None:
    with pytest.raises(DebrideError, match=words):
        table_cost(_written(tmp_path, table), wide, find_groups(wide, IMAGE).groups)
    with pytest.raises(DebrideError, match="cannot read"):
        table_cost(tmp_path / "none.json", wide, ())
