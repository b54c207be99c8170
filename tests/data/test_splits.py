from __future__ import annotations

import numpy as np
import pytest

from debride.data import Record
from debride.data.splits import take_validation
from debride.errors import DebrideError


def records(labels: list[int], groups: list[str] | None = None) -> list[Record]:
    return [
        Record(image=n, label=label, name=f"#{n}", group=groups[n] if groups else None)
        for n, label in enumerate(labels)
    ]


def test_stratified() -> None:
    train, val, note = take_validation(records([0] * 90 + [1] * 10), ("a", "b"), 0.2, 0)
    assert np.bincount([record.label for record in val]).tolist() == [18, 2]
    assert len(train) == 80
    assert "20 of 100" in note


def test_grouped_and_nearly_stratified() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{n}" for n in rng.integers(0, 60, 400)]
    labels = rng.integers(0, 2, 400).tolist()
    train, val, note = take_validation(records(labels, groups), ("a", "b"), 0.2, 0)
    assert {record.group for record in train}.isdisjoint({record.group for record in val})
    assert abs(len(val) / 400 - 0.2) < 0.05
    assert abs(np.mean([record.label for record in val]) - np.mean(labels)) < 0.1
    assert "60 groups" in note


def test_images_without_a_group_are_groups_of_their_own() -> None:
    given = [
        *records([0, 1] * 10),
        Record(20, 0, "#20", group="p"),
        Record(21, 1, "#21", group="p"),
    ]
    train, val, _ = take_validation(given, ("a", "b"), 0.25, 0)
    assert len(train) + len(val) == 22
    sides = [record.group == "p" for record in val]
    assert sum(sides) in (0, 2)


@pytest.mark.parametrize("share", [0.0, 0.6, -1.0, float("nan")])
def test_share_out_of_range(share: float) -> None:
    with pytest.raises(DebrideError, match="validation share"):
        take_validation(records([0, 1] * 4), ("a", "b"), share, 0)


def test_too_few_images() -> None:
    with pytest.raises(DebrideError, match="'b' has 1 of the images and needs 2"):
        take_validation(records([0, 0, 0, 1]), ("a", "b"), 0.25, 0)
