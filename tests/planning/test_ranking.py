"""Normalisations, by hand-computed numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.planning.fitting import cut_to_budget
from debride.planning.plan import Group, Member, PlannedGroup, Tap
from debride.planning.ranking import (
    check_ranking,
    importances,
    normalisation_names,
    ranked_together,
)


def _group(name: str, units: int, *layers: str, keep: list[int] | None = None) -> PlannedGroup:
    layers = layers or (name,)
    group = Group(
        name,
        "channel",
        units,
        tuple(Member(layer, "out") for layer in layers),
        tuple(Tap(layer, layer) for layer in layers),
    )
    return group.planned(range(units) if keep is None else keep)


def _doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("share", [0.1, 0.4, 0.2, 0.3]),
        ("share_width", [0.4, 1.6, 0.8, 1.2]),
        (
            "share_width_rank",
            [0.4 * 0.125**0.5, 1.6 * 0.875**0.5, 0.8 * 0.375**0.5, 1.2 * 0.625**0.5],
        ),
        ("rank", [0.125, 0.875, 0.375, 0.625]),
    ],
)
def test_one_producer(normalise: str, expected: list[float]) -> None:
    found = importances([_group("a", 4)], {"a": _doubles(1, 4, 2, 3)}, normalise)
    assert found["a"].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        # a: 0.25 0.75; b: 0.9 0.1; mean: 0.575 0.425. c carries nothing and has no say.
        ("share", [0.575, 0.425]),
        ("share_width", [1.15, 0.85]),
        ("rank", [0.75, 0.25]),
    ],
)
def test_several_producers_take_the_mean_of_shares(normalise: str, expected: list[float]) -> None:
    scores = {"a": _doubles(1, 3), "b": _doubles(90, 10), "c": _doubles(0, 0)}
    found = importances([_group("a", 2, "a", "b", "c")], scores, normalise)
    assert found["a"].tolist() == pytest.approx(expected, abs=1e-15)


def test_units_without_any_relevance_are_alike() -> None:
    found = importances([_group("a", 4)], {"a": _doubles(0, 0, 0, 0)}, "share_width")
    assert found["a"].tolist() == [1, 1, 1, 1]


def test_scores_of_a_narrowed_layer_belong_to_the_units_left() -> None:
    found = importances([_group("a", 5, keep=[1, 4])], {"a": _doubles(3, 1)}, "share")
    assert found["a"].tolist() == [0.75, 0.25]


def test_two_groups_may_share_a_producer() -> None:
    members = (Member("a", "out"), Member("a", "out", offset=4, block=2))
    first = PlannedGroup("x", "channel", 4, members[:1], (Tap("a", "a"),), keep=(0, 3))
    second = PlannedGroup("y", "channel", 3, members[1:], (Tap("a", "a"),), keep=(1, 2))
    # Positions left: 0 3 | 6 7 8 9, in this order.
    scores = {"a": _doubles(1, 3, 10, 20, 30, 40)}
    found = importances([first, second], scores, "share")
    assert found["x"].tolist() == [0.25, 0.75]
    assert found["y"].tolist() == [0.3, 0.7]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(DebrideError, match="scores of 'a' are not all finite"):
        importances([_group("a", 2)], {"a": _doubles(1, value)}, "share")


def test_an_unknown_normalisation_is_named() -> None:
    assert normalisation_names() == ("rank", "share", "share_width", "share_width_rank")
    with pytest.raises(DebrideError, match="no normalisation 'shares': did you mean 'share'"):
        importances([], {}, "shares")


def test_isomorphic_groups_have_the_same_kinds_and_shapes() -> None:
    def convolutions(width: int) -> list[nn.Module]:
        return [nn.Conv2d(8, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 8, 3)]

    model = nn.Sequential(*convolutions(6), *convolutions(6), *convolutions(4))
    groups = []
    for first, units in ((0, 6), (3, 6), (6, 4)):
        members = (
            Member(str(first), "out"), Member(str(first + 1), "out"), Member(str(first + 2), "in")
        )  # fmt: skip
        taps = (Tap(str(first), str(first + 1)),)
        groups.append(Group(str(first), "channel", units, members, taps))
    first, second, third = ranked_together("isomorphic", model, groups)
    assert first == second != third
    assert ranked_together("layer", model, groups) == ("0", "3", "6")
    assert len(set(ranked_together("global", model, groups))) == 1


@pytest.mark.parametrize(
    ("sets", "kept"),
    [
        ("xxx", {"a": [2, 3], "b": [3], "c": [0, 1, 2]}),
        ("xyz", {"a": [2, 3], "b": [2, 3], "c": [0, 1]}),
        ("xyx", {"a": [2, 3], "b": [2, 3], "c": [0, 1]}),
        ("xxy", {"a": [1, 2, 3], "b": [3], "c": [0, 1]}),
    ],
)
def test_sets_are_ranked_among_themselves(sets: str, kept: dict[str, list[int]]) -> None:
    groups = [_group(name, 4) for name in "abc"]
    scores = {
        "a": _doubles(11, 20, 30, 39),
        "b": _doubles(1, 2, 3, 94),
        "c": _doubles(38, 31, 21, 10),
    }
    cut = cut_to_budget(
        groups, scores, lambda removed: 12 - float(removed.sum()), 0.5, sets=tuple(sets),
        normalise="share",
    )  # fmt: skip
    assert {group.name: list(group.keep) for group in cut} == kept


def test_a_ranking_within_layers_takes_no_normalisation() -> None:
    check_ranking("layer", "rank")
    check_ranking("isomorphic", "share")
    with pytest.raises(DebrideError, match="within each layer needs no normalisation 'share'"):
        check_ranking("layer", "share")
    with pytest.raises(DebrideError, match="no ranking 'globl': known: global, layer, isomorphic"):
        check_ranking("globl", None)
