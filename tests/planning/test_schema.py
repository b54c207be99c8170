"""The published form of a plan file: current, and what every plan is checked against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.planning.groups import find_groups
from debride.planning.make import finish
from debride.planning.plan import Kind, Plan, Side
from debride.planning.schema import plan_schema

from . import toys

PUBLISHED = Path(__file__).parents[2] / "docs/plan.schema.json"
IMAGES = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def data() -> dict[str, Any]:
    model: nn.Module = toys.randomise(toys.Flat())
    groups = [group.planned([0, 1, 3]) for group in find_groups(model, IMAGES).groups]
    return json.loads(finish(model, groups, IMAGES, {"macs": 0.5}).to_json())


def test_the_published_schema_is_current() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == plan_schema(), (
        "run: debride plan schema --out docs/plan.schema.json"
    )


def test_kinds_and_sides_come_from_the_plan_itself() -> None:
    group = json.loads(plan_schema())["$defs"]["GroupForm"]["properties"]
    assert group["kind"]["enum"] == list(get_args(Kind))
    for form in group["members"]["items"]["anyOf"]:  # four entries, or six where it is repeated
        assert form["prefixItems"][1]["enum"] == list(get_args(Side))


def test_the_schema_names_what_a_plan_has(data: dict[str, Any]) -> None:
    schema = json.loads(plan_schema())
    assert schema["properties"].keys() == data.keys()
    assert schema["$defs"]["GroupForm"]["properties"].keys() == data["groups"][0].keys()
    assert schema["$defs"]["CostForm"]["properties"].keys() == data["cost"]["after"].keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["groups"][0].update(kept="0-2"), "group 'conv', kept: extra inputs are not"),
        (lambda d: d["groups"][1].update(units="6"), "group 'hidden', units: input should be a"),
        (lambda d: d["groups"][0].pop("keep"), "group 'conv', keep: field required"),
        (lambda d: d["groups"][0].update(keep=[0, 1]), "group 'conv', keep: input should be a"),
        (lambda d: d["groups"].append(7), "groups.2: "),
        (lambda d: d["cost"]["after"].update(macs=-1), "cost.after.macs: input should be greater"),
        (lambda d: d["cost"]["after"].update(macs=1.5), "cost.after.macs: input should be a valid"),
        (lambda d: d.update(comment="mine"), "comment: extra inputs are not permitted"),
    ],
)
def test_the_place_of_a_mistake_is_named(change: Any, said: str, data: dict[str, Any]) -> None:
    change(data)
    with pytest.raises(DebrideError, match="the plan is damaged: ") as caught:
        Plan.from_json(json.dumps(data))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
