"""Visited networks on disk: whole, resumable, refused where they are not what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import debride
from debride import prune
from debride.errors import DebrideError
from debride.files import POINTS, UNFINISHED_POINTS
from debride.planning.search import StepRecord
from debride.points import check_points, read_point
from debride.pruning import Pruned
from test_pruning import DATA, IMAGES, _net


class _StopError(Exception):
    pass


def _stop_at(step: int) -> Callable[[StepRecord], None]:
    def stop(record: StepRecord) -> None:
        if record.step == step:
            raise _StopError

    return stop


def _same(first: Pruned, second: Pruned) -> None:
    assert first.plan == second.plan
    assert first.history == second.history
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key


GOALS: dict[str, dict[str, Any]] = {
    "budget": {"macs": 0.4, "steps": 3},
    "search": {"max_drop": 0.4, "confidence": 0.5},
}


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("step", [0, 2])
def test_an_interrupted_pruning_ends_as_if_it_had_not_been(
    goal: str, step: int, tmp_path: Path
) -> None:
    arguments = {"evidence": False, "seed": 3, **GOALS[goal]}
    whole = prune(_net(), DATA, DATA, **arguments)
    with pytest.raises(_StopError):
        prune(_net(), DATA, DATA, folder=tmp_path, on_step=_stop_at(step), **arguments)
    seen: list[StepRecord] = []
    resumed = prune(_net(), DATA, DATA, folder=tmp_path, on_step=seen.append, **arguments)
    assert tuple(seen) == resumed.history
    _same(resumed, whole)
    again = prune(_net(), DATA, DATA, folder=tmp_path, **arguments)  # nothing left to do
    _same(again, whole)
    debride.save(again, tmp_path)
    assert not (tmp_path / UNFINISHED_POINTS).exists()
    assert (tmp_path / POINTS / "state.json").exists() == (goal == "search")
    assert (tmp_path / "curve.csv").exists() == (goal == "search")


def test_a_budget_keeps_one_network_and_a_search_keeps_all(tmp_path: Path) -> None:
    prune(_net(), DATA, DATA, evidence=False, folder=tmp_path / "a", **GOALS["budget"])
    found = sorted(file.name for file in (tmp_path / "a" / UNFINISHED_POINTS).iterdir())
    assert found == ["003.json", "003.safetensors", "state.json"]
    pruned = prune(_net(), DATA, DATA, evidence=False, folder=tmp_path / "b", **GOALS["search"])
    assert pruned.curve is not None
    inner = tmp_path / "b" / UNFINISHED_POINTS
    assert len(list(inner.glob("*.safetensors"))) == len(pruned.curve.points) - 1
    for point in pruned.curve.points[1:]:
        model, plan = read_point(inner, point.step, _net())
        assert plan.macs_kept == pytest.approx(point.macs_kept, abs=1e-9)
        assert torch.equal(
            model.eval()(IMAGES), read_point(inner, point.step, _net())[0].eval()(IMAGES)
        )
    model, _ = read_point(inner, pruned.curve.chosen, _net())
    assert torch.equal(model.eval()(IMAGES), pruned.model.eval()(IMAGES))


def test_other_settings_or_weights_are_refused(tmp_path: Path) -> None:
    arguments = {"evidence": False, "folder": tmp_path, "macs": 0.5}
    with pytest.raises(_StopError):
        prune(_net(), DATA, DATA, steps=3, on_step=_stop_at(1), **arguments)
    words = "holds an unfinished pruning with steps 3 instead of 2: finish it with the settings"
    with pytest.raises(DebrideError, match=words):
        prune(_net(), DATA, DATA, steps=2, **arguments)
    state = tmp_path / UNFINISHED_POINTS / "state.json"
    data = json.loads(state.read_text())
    state.write_text(json.dumps({**data, "settings": {**data["settings"], "images": 7}}))
    with pytest.raises(DebrideError, match="images 7 instead of 8"):
        prune(_net(), DATA, DATA, steps=3, recorded={"images": 8}, **arguments)
    search = {"evidence": False, "folder": tmp_path / "search", "max_drift": 0.5}
    with pytest.raises(_StopError):
        prune(_net(), DATA, DATA, heatmap_rules="epsilon", on_step=_stop_at(1), **search)
    with pytest.raises(DebrideError, match="with heatmap_rules epsilon instead of epsilon_plus"):
        prune(_net(), DATA, DATA, heatmap_rules="epsilon_plus", **search)
    other = _net()
    with torch.no_grad():
        other.get_parameter("one.weight")[0] += 1
    with pytest.raises(DebrideError, match="with a network of other weights"):
        prune(other, DATA, DATA, steps=3, **arguments)
    with pytest.raises(DebrideError, match="was made from a network of other weights"):
        read_point(tmp_path / UNFINISHED_POINTS, 1, other)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("state.json", r"state.json' is damaged \(.*\): delete it to start anew"),
        ("002.json", "plan is not valid JSON|plan is damaged"),
        ("002.safetensors", "is not a valid safetensors file"),
    ],
)
def test_damage_is_one_sentence(name: str, words: str, tmp_path: Path) -> None:
    arguments = {"evidence": False, "folder": tmp_path, "macs": 0.5, "steps": 3}
    with pytest.raises(_StopError):
        prune(_net(), DATA, DATA, on_step=_stop_at(2), **arguments)
    _cut_short(tmp_path / UNFINISHED_POINTS / name)
    with pytest.raises(DebrideError, match=words):
        prune(_net(), DATA, DATA, **arguments)


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    arguments = {"evidence": False, "folder": tmp_path, "macs": 0.5, "steps": 2}
    with pytest.raises(_StopError):
        prune(_net(), DATA, DATA, on_step=_stop_at(1), **arguments)
    inner = tmp_path / UNFINISHED_POINTS
    (inner / ".002.4711").write_bytes(b"half")
    (inner / "002.safetensors").write_bytes(b"of a step that was not finished")
    assert check_points(tmp_path, {"steps": 2}) == 1
    prune(_net(), DATA, DATA, **arguments)
    assert not list(inner.glob(".*"))


def test_a_floor_that_no_cut_keeps_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("debride.drift.Drift.__call__", lambda *_: 0.25)
    folder = tmp_path / "out"
    words = r"no cut keeps the floor: with 9\d\.\d% of the MACs left heatmaps drift by 0.250"
    with pytest.raises(DebrideError, match=words):
        prune(_net(), DATA, DATA, max_drift=0.2, folder=folder)
    assert not folder.exists()


def test_a_search_takes_the_smallest_network_within_drift_and_drop() -> None:
    free = prune(_net(), DATA, DATA, evidence=False, max_drop=1.0, confidence=0.5)
    assert free.curve is not None
    drifts = sorted(point.drift for point in free.curve.points[1:] if point.drift is not None)
    limit = drifts[len(drifts) // 2]
    held = prune(_net(), DATA, DATA, evidence=False, max_drop=1.0, max_drift=limit)
    assert held.curve is not None
    chosen = held.curve.points[held.curve.chosen]
    assert chosen.drift is not None
    assert chosen.drift <= limit
    assert held.plan.macs_kept == pytest.approx(chosen.macs_kept, abs=1e-9)
    assert held.plan.macs_kept > free.plan.macs_kept
    bad = [point for point in held.curve.points if not point.good]
    assert bad
    assert all(point.drift is not None and point.drift > limit for point in bad)
    assert held.plan.made_by["max_drift"] == limit
