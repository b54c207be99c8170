"""A plan's stated costs and weights against what is there when it is applied."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from debride.planning.applying import restated
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.make import finish
from debride.planning.plan import Plan, weights_hash
from debride.surgery import apply

from . import toys

IMAGES = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    return toys.randomise(toys.Flat())


@pytest.fixture
def plan(model: nn.Module) -> Plan:
    conv, hidden = find_groups(model, IMAGES).groups
    return finish(model, [conv.planned([0, 1, 2, 5]), hidden.planned([3, 4])], IMAGES, {})


def test_what_is_as_stated_stays_as_it_is(model: nn.Module, plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert restated(model, again, IMAGES) == (again, [])


def test_an_edited_plan_gets_the_costs_that_it_has(model: nn.Module, plan: Plan) -> None:
    edited = Plan.from_json(plan.to_json().replace('"0-2 5"', '"0-1"'))
    assert edited.after == plan.after
    found, said = restated(model, edited, IMAGES)
    assert found.groups == edited.groups
    assert found.after == measure(apply(model, edited), IMAGES)
    assert found.after.macs < plan.after.macs
    (sentence,) = said
    assert f"→ {plan.after.macs} MACs" in sentence
    assert f"→ {found.after.macs} MACs" in sentence


def test_costs_edited_by_hand_do_not_stay(model: nn.Module, plan: Plan) -> None:
    data = json.loads(plan.to_json())
    data["cost"]["after"]["params"] = 3
    found, said = restated(model, Plan.from_json(json.dumps(data)), IMAGES)
    assert found == plan
    assert len(said) == 1


def test_another_image_size_is_another_cost(model: nn.Module) -> None:
    net = toys.randomise(toys.SmallUNet())
    groups = [group.planned([0, 1]) for group in find_groups(net, IMAGES).groups]
    plan = finish(net, groups, IMAGES, {})
    found, said = restated(net, plan, torch.zeros(1, 1, 16, 16))
    assert found.before.macs > 3 * plan.before.macs
    assert "another image size" in said[0]


def test_other_weights_are_said_and_the_plan_keeps_its_own(model: nn.Module, plan: Plan) -> None:
    assert plan.made_by["weights"] == weights_hash(model)
    with torch.no_grad():
        model.get_parameter("head.bias")[0] += 1e-3
    found, said = restated(model, plan, IMAGES)
    (sentence,) = said
    assert f"hash {plan.made_by['weights'][:12]}, these have {weights_hash(model)[:12]}" in sentence
    assert found.made_by == plan.made_by


def test_a_plan_that_names_no_weights_is_taken_as_it_is(model: nn.Module, plan: Plan) -> None:
    data = json.loads(plan.to_json())
    del data["made_by"]["weights"]
    assert restated(model, Plan.from_json(json.dumps(data)), IMAGES)[1] == []


def test_the_hash_is_of_values_names_and_buffers(model: nn.Module) -> None:
    first = weights_hash(model)
    assert weights_hash(toys.randomise(toys.Flat().requires_grad_(False), seed=9)) != first
    copy = toys.Flat()
    copy.load_state_dict(model.state_dict())
    assert weights_hash(copy) == first
    copy.get_buffer("norm.running_mean")[0] += 1
    assert weights_hash(copy) != first
    assert weights_hash(model.to(memory_format=torch.channels_last)) == first
    assert len(weights_hash(model.bfloat16())) == 64
