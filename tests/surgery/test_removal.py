from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.planning.groups import find_groups
from debride.planning.make import finish
from debride.planning.plan import Member, Plan
from debride.surgery import apply, narrow
from planning.toys import Flat, Tail, random_widths, randomise

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def _planned(model: nn.Module) -> Plan:
    return finish(model, random_widths(find_groups(model, IMAGES).groups), IMAGES, {})


def test_the_kept_weights_are_the_original_ones() -> None:
    model = randomise(Flat())
    groups = {group.name: group for group in find_groups(model, IMAGES).groups}
    plan = finish(
        model,
        [groups["conv"].planned([0, 4]), groups["hidden"].planned([1, 2, 9])],
        IMAGES,
        {},
    )
    small = apply(model, plan)
    assert isinstance(small, Flat)
    assert torch.equal(small.conv.weight, model.conv.weight[[0, 4]])
    assert torch.equal(small.norm.running_var, model.norm.running_var[[0, 4]])  # type: ignore[index]
    columns = [*range(16), *range(64, 80)]
    assert torch.equal(small.hidden.weight, model.hidden.weight[[1, 2, 9]][:, columns])
    assert torch.equal(small.head.weight, model.head.weight[:, [1, 2, 9]])
    assert (small.conv.out_channels, small.norm.num_features) == (2, 2)
    assert (small.hidden.in_features, small.hidden.out_features) == (32, 3)
    assert small.head.out_features == 3


@pytest.mark.parametrize("masks", [False, True])
def test_the_given_network_is_untouched(masks: bool) -> None:
    model = randomise(Flat()).train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    plan = _planned(model)
    before = copy.deepcopy(model.state_dict())
    small = apply(model, plan, masks=masks)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert small.training
    assert not small.get_submodule("norm").training
    assert not small.get_parameter("conv.weight").requires_grad
    assert small.get_parameter("hidden.weight").requires_grad
    assert all(p.is_leaf for p in small.parameters())


def test_works_on_the_meta_device() -> None:
    model = randomise(Flat())
    plan = _planned(model)
    small = apply(copy.deepcopy(model).to("meta"), plan)
    expected = apply(model, plan)
    assert {k: v.shape for k, v in small.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    assert all(v.is_meta for v in small.state_dict().values())


def test_what_is_gone_cannot_come_back() -> None:
    model = randomise(Flat())
    (conv, hidden) = find_groups(model, IMAGES).groups
    first = [conv.planned([0, 1]), hidden.planned(range(10))]
    small = apply(model, finish(model, first, IMAGES, {}))
    with pytest.raises(DebrideError, match="cannot come back"):
        narrow(small, [conv.planned([1, 2]), hidden.planned(range(10))], first)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (Member("conv", "out", offset=100), "removes up to position .* of 'conv', which has 6"),
        (Member("nowhere", "out"), "names a module 'nowhere'"),
        (Member("", "out"), "cannot be cut"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(member: Member, words: str) -> None:
    model = randomise(Flat())
    plan = _planned(model)
    damaged = replace(plan.groups[0], members=(member,), keep=(0,))
    with pytest.raises(DebrideError, match=words):
        apply(model, replace(plan, groups=(damaged,)))


def test_a_plan_for_another_network_is_refused() -> None:
    plan = _planned(randomise(Flat()))
    with pytest.raises(DebrideError, match="another architecture"):
        apply(Tail(nn.ReLU()), plan)
    with pytest.raises(DebrideError, match="another architecture"):
        apply(apply(randomise(Flat()), plan), plan)
