"""Floors, widths that suit the hardware, protected layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from debride import score
from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.limits import Limits, limits_of
from debride.planning.make import plan
from debride.planning.plan import Group, Member, Tap
from debride.surgery import apply

IMAGE = torch.zeros(1, 1, 32, 32)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    spec = ModelSpec(source="torchvision:resnet18", outputs=3, channels=1, spatial=(32, 32))
    return build(spec).eval()


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.3}, {"ratio": 0.4}], ids=str)
def test_kept_widths_are_multiples_and_the_budget_is_met(
    resnet: nn.Module, budget: dict[str, float]
) -> None:
    scores = score(resnet, [IMAGE], criterion="random")
    made = plan(resnet, scores, IMAGE, round_to=8, **budget)  # type: ignore[arg-type]
    assert all(len(group.keep) % 8 == 0 for group in made.groups)
    reached = {"macs": made.macs_kept, "params": made.params_kept, "ratio": 1 - made.units_kept}
    ((kind, asked),) = budget.items()
    assert reached[kind] == pytest.approx(asked, abs=0.01)
    assert measure(apply(resnet, made), IMAGE) == made.after
    assert made.made_by["round_to"] == 8


def test_portions_end_at_the_least_whatever_the_width() -> None:
    group = Group("conv", "channel", 21, (), ())
    assert list(Limits(floor=0.0, round_to=8).portions(group, 21)) == [5, 8]
    assert Limits(floor=0.9, round_to=8).least(group) == 21
    assert list(Limits(floor=0.9, round_to=8).portions(group, 21)) == []
    assert Limits(floor=0.0, round_to=32).least(group) == 21


def test_blocks_of_positions_count_towards_the_multiple() -> None:
    members = (Member("qkv", "out", block=4),)
    group = Group("qkv", "neuron", 12, members, (Tap("qkv", "qkv"),))
    assert list(Limits(floor=0.0, round_to=8).portions(group, 12)) == [2] * 5


def test_a_protected_layer_keeps_its_outputs(resnet: nn.Module) -> None:
    scores = score(resnet, [IMAGE], criterion="random")
    made = plan(resnet, scores, IMAGE, macs=0.7, protect=["layer4.*", "conv1"])
    smaller = apply(resnet, made)
    for name, module in resnet.named_modules():
        if isinstance(module, nn.Conv2d) and (name.startswith("layer4.") or name == "conv1"):
            assert smaller.get_submodule(name).out_channels == module.out_channels, name
    assert made.macs_kept == pytest.approx(0.7, abs=0.01)
    assert smaller.get_submodule("layer2.0.conv1").out_channels < 128


def test_a_container_is_protected_with_all_in_it(resnet: nn.Module) -> None:
    groups = find_groups(resnet, IMAGE).groups
    whole = limits_of(resnet, groups, protect=["layer4"]).protected
    assert whole == limits_of(resnet, groups, protect=["layer4.*"]).protected
    assert whole
    assert all(name.startswith("layer4") for name in whole)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"protect": ["layer9.*"]}, r"no layer is named 'layer9\.\*': protect one of those"),
        ({"protect": ["*"]}, "nothing is left to cut"),
        ({"round_to": 0}, "round_to=0: give 1 or more"),
        ({"floor": 1.5}, "floor=1.5 is not a fraction"),
        ({"round_to": 64, "macs": 0.02}, r"every group at its floor 0\.\d+ is left"),
        ({"floor": 1.0}, r"nothing can go, as every group is at its floor; loosen what holds"),
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(
    resnet: nn.Module, given: dict[str, object], words: str
) -> None:
    scores = score(resnet, [IMAGE], criterion="magnitude")
    with pytest.raises(DebrideError, match=words):
        plan(resnet, scores, IMAGE, **{"macs": 0.5, **given})  # type: ignore[arg-type]


def test_a_rounded_budget_that_is_too_fine_names_the_nearest() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3), nn.Flatten(), nn.Linear(2 * 784, 2)
    )
    scores = score(net, [IMAGE], criterion="random")
    with pytest.raises(DebrideError, match=r"coarse, the nearest is (0\.\d+|1\.000)"):
        plan(net, scores, IMAGE, macs=0.8, round_to=8, protect=["2"])
