from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from debride.errors import DebrideError
from debride.planning.costs import Costs
from debride.planning.groups import find_groups
from debride.planning.make import check_members, finish
from debride.planning.plan import (
    Group,
    Member,
    Plan,
    Tap,
    fingerprint,
    read_ranges,
    write_ranges,
)
from debride.surgery import apply

from . import toys

IMAGES = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    return toys.randomise(toys.Flat())


@pytest.fixture
def plan(model: nn.Module) -> Plan:
    conv, hidden = find_groups(model, IMAGES).groups
    chosen = [conv.planned([0, 1, 2, 5]), hidden.planned([3, 4])]
    return finish(model, chosen, IMAGES, {"criterion": "lrp:epsilon", "macs": 0.5})


def test_json_comes_back_equal_and_reads_well(plan: Plan) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    lines = text.splitlines()
    assert sum('"keep": "0-2 5"' in line for line in lines) == 1
    assert sum('"units"' in line for line in lines) == len(plan.groups)


def test_a_plan_of_the_first_schema_is_read_as_it_is(plan: Plan) -> None:
    text = plan.to_json().replace('"schema_version": 3', '"schema_version": 1')
    assert Plan.from_json(text) == plan


def test_heads_come_back_equal(plan: Plan) -> None:
    member = Member("attend", "out", 8, 1, repeat=2, stride=4)
    dims = Group(
        "attend.dims", "head_dim", 4, (member, Member("proj", "in", 0, 1, 2, 4)),
        (Tap("proj", "proj@input"),),
    )  # fmt: skip
    planned = replace(plan, groups=(dims.planned([1, 3]),))
    assert Plan.from_json(planned.to_json()) == planned
    assert '["attend", "out", 8, 1, 2, 4]' in planned.to_json()


def test_a_plan_of_no_groups_comes_back(plan: Plan) -> None:
    empty = Plan((), plan.fingerprint, plan.before, plan.before)
    assert Plan.from_json(empty.to_json()) == empty


def test_fractions_kept(plan: Plan) -> None:
    assert plan.units_kept == 6 / 16
    assert plan.params_kept == plan.after.params / plan.before.params
    # 4 of 6 convolution channels; hidden (96 -> 10) becomes (64 -> 2); head (10 -> 3) (2 -> 3).
    assert plan.before.macs == 9 * 6 * 64 + 96 * 10 + 10 * 3
    assert plan.after.macs == 9 * 4 * 64 + 64 * 2 + 2 * 3
    assert plan.macs_kept == plan.after.macs / plan.before.macs


def test_a_plan_edited_by_hand_is_applied(model: nn.Module, plan: Plan) -> None:
    edited = Plan.from_json(plan.to_json().replace('"keep": "0-2 5"', '"keep": "1, 4"'))
    assert edited.groups[0].keep == (1, 4)
    assert edited.groups[0].removed == (0, 2, 3, 5)
    small = apply(model, edited)
    expected = apply(model, plan.with_keep({"conv": [4, 1]}))
    assert small.get_parameter("conv.weight").shape[0] == 2
    assert torch.equal(small(IMAGES), expected(IMAGES))


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"con": [1]}, "no group 'con': did you mean 'conv'"),
        ({"conv": []}, "must keep one unit at least"),
        ({"conv": [1, 1]}, "each once"),
        ({"conv": [-1]}, "has units 0 to 5"),
        ({"conv": [0, 6]}, "has units 0 to 5"),
    ],
)
def test_other_units_are_units_of_the_plan(
    plan: Plan, keep: dict[str, list[int]], words: str
) -> None:
    with pytest.raises(DebrideError, match=words):
        plan.with_keep(keep)


@given(st.sets(st.integers(0, 300)))
def test_ranges_come_back(indices: set[int]) -> None:
    ordered = tuple(sorted(indices))
    assert read_ranges(write_ranges(ordered)) == ordered


@pytest.mark.parametrize(
    ("indices", "text"), [([], ""), ([4], "4"), ([0, 1], "0-1"), ([0, 2, 3, 9], "0 2-3 9")]
)
def test_ranges_are_written_as_people_do(indices: list[int], text: str) -> None:
    assert write_ranges(indices) == text


@pytest.mark.parametrize(
    "text", ["a", "1-", "-1", "3-1", "1 1", "2 1", "0-3 2", "1--2", "0-99999999", "1.5", "²"]
)
def test_wrong_ranges_are_refused(text: str) -> None:
    with pytest.raises(DebrideError, match=r"not an index or a range|out of order"):
        read_ranges(text)


def _set(path: str, value: Any) -> Any:
    def change(data: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            data = data[key]
        data[last] = value

    return pytest.param(change, id=f"{path}={value!r}"[:40])


def _drop(path: str) -> Any:
    def change(data: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            data = data[key]
        del data[last]

    return pytest.param(change, id=f"no {path}")


@pytest.mark.parametrize(
    "change",
    [
        _drop("schema_version"), _drop("groups"), _drop("fingerprint"), _drop("cost"),
        _drop("cost.after"), _drop("cost.before.macs"), _drop("groups.0.name"),
        _drop("groups.0.units"), _drop("groups.0.keep"), _drop("groups.0.taps"),
        _drop("groups.0.members"), _drop("groups.0.kind"),
        _set("schema_version", 4), _set("schema_version", "x"), _set("groups", 3),
        _set("groups", [1]), _set("groups.0.units", 0), _set("groups.0.units", "6"),
        _set("groups.0.units", True), _set("groups.0.keep", ""), _set("groups.0.keep", "0-6"),
        _set("groups.0.keep", None), _set("groups.0.keep", "0 0"), _set("groups.0.kind", "tail"),
        _set("groups.0.kind", []), _set("groups.0.members", [["conv", "out", 0]]),
        _set("groups.0.members", [["conv", "up", 0, 1]]),
        _set("groups.0.members", [["conv", "out", -1, 1]]),
        _set("groups.0.members", [["conv", "out", 0, 0]]),
        _set("groups.0.members", [["conv", "out", 0, 1, 2]]),
        _set("groups.0.members", [["conv", "out", 0, 1, 2, 0]]),
        _set("groups.0.members", [["conv", "out", 0, 1, 10**6, 1]]),
        _set("groups.0.members", [["conv", "out", 0.5, 1]]),
        _set("groups.0.members", [["conv", "out", 10**12, 1]]),
        _set("groups.0.members", [["conv", "out", 0, 10**12]]),
        _set("groups.0.taps", [["conv"]]), _set("groups.0.taps", 1),
        _set("groups.0.taps", [["head", "head"]]),
        _set("groups.1.name", "conv"),
        _set("cost.before.macs", "many"), _set("made_by", 1), _set("cost.before", []),
        _set("groups.0.units", 10**12),
    ],
)  # fmt: skip
def test_a_damaged_plan_is_refused_in_a_sentence(change: Any, plan: Plan, model: nn.Module) -> None:
    data = json.loads(plan.to_json())
    change(data)
    with pytest.raises(DebrideError) as caught:
        apply(model, Plan.from_json(json.dumps(data)))
    assert "plan" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"plan"', "[" * 100_000, "{}", '{"command": "prune"}']
)
def test_what_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(DebrideError, match="plan"):
        Plan.from_json(text)


def test_the_fingerprint_is_of_names_and_shapes(model: nn.Module, plan: Plan) -> None:
    other = toys.randomise(toys.Flat(), seed=5)
    assert fingerprint(other) == fingerprint(model) == plan.fingerprint
    plan.check(other)
    assert fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))
    assert fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(2, 3, bias=False))
    with pytest.raises(DebrideError, match=r"another architecture \(fingerprint " + "[0-9a-f]{12}"):
        plan.check(nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.replace("0-2 5", "0 4"), None),
        (
            lambda g: g.replace('["hidden", "in", ', '["head", "in", '),
            r"'conv' lacks 'hidden' \(in",
        ),
        (lambda g: g.replace('"name": "conv"', '"name": "convx"'), None),
    ],
)
def test_groups_must_couple_what_the_network_couples(
    change: Any, words: str | None, plan: Plan, model: nn.Module
) -> None:
    edited = Plan.from_json(change(plan.to_json()))
    if words is None:
        check_members(model, edited, IMAGES)
        return
    with pytest.raises(DebrideError, match=words):
        check_members(model, edited, IMAGES)


def test_a_group_may_be_left_out_and_no_member(plan: Plan, model: nn.Module) -> None:
    first, second = plan.groups
    check_members(model, replace(plan, groups=(second,)), IMAGES)
    moved = replace(first, members=tuple(replace(m, offset=1) for m in first.members))
    with pytest.raises(DebrideError, match=f"'{first.name}' is none of the network"):
        check_members(model, replace(plan, groups=(moved, second)), IMAGES)
    fewer = replace(first, members=first.members[:1])
    with pytest.raises(DebrideError, match=f"lacks '{first.members[1].module}'"):
        check_members(model, replace(plan, groups=(fewer, second)), IMAGES)


def test_costs_come_back() -> None:
    assert Costs.from_dict(Costs(1, 2, 3).to_dict()) == Costs(1, 2, 3)
