"""What goes with a group, against networks that are really cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from debride.planning.costs import measure
from debride.planning.make import finish
from debride.planning.survey import survey
from debride.surgery import apply

from . import toys

IMAGES = torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize("name", ["Flat", "SmallUNet", "SqueezeExcite"])
def test_what_goes_with_a_group_is_what_a_cut_takes_away(name: str) -> None:
    """Costs are linear in one group's units, so one unit taken away shows the whole."""
    model = toys.randomise(getattr(toys, name)())
    found = survey(model, IMAGES)
    assert found.costs == measure(model, IMAGES)
    for entry in found.groups:
        group = entry.group
        less = apply(model, finish(model, [group.planned(range(1, group.units))], IMAGES, {}))
        cost = measure(less, IMAGES)
        # a layer that reads itself (depthwise) or joins is counted by what one unit takes
        assert group.units * (found.costs.params - cost.params) == entry.params
        assert group.units * (found.costs.macs - cost.macs) == entry.macs
        assert set(entry.layers) == {member.module for member in group.members}


def test_all_together_is_less_than_the_sum_where_groups_meet() -> None:
    model = toys.randomise(toys.Flat())
    found = survey(model, IMAGES)
    conv, hidden = found.groups
    # convolution 9 · 6 + 6, norm 12, hidden 96 · 10; hidden 960 + 10, norm 20, head 30
    assert (conv.params, hidden.params) == (60 + 12 + 960, 970 + 20 + 30)
    assert found.params == 60 + 12 + 970 + 20 + 30
    assert found.macs == found.costs.macs
    assert found.units == 16


def test_what_is_left_alone_has_a_reason() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.LocalResponseNorm(3),
        nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    found = survey(net, IMAGES)
    assert found.left_alone
    assert all(left.reason and left.units > 0 for left in found.left_alone)
    assert found.params < found.costs.params
