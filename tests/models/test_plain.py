"""Networks that cannot be looked into are refused in one sentence that names the module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from debride.errors import DebrideError
from debride.models.plain import check_plain
from debride.planning.groups import find_groups

IMAGES = torch.zeros(2, 1, 8, 8)


class Net(nn.Module):
    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Conv2d(1, 8, 3)
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.reentrant is None:
            x = self.body(x)
        else:
            x = checkpoint(self.body, x, use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


def scripted() -> nn.Module:
    net = Net()
    net.body = torch.jit.script(net.body)
    return net


def compiled_inside() -> nn.Module:
    net = Net()
    net.body.compile()
    return net


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return Net()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (scripted, "the module 'body' is TorchScript"),
        (lambda: torch.jit.trace(Net().eval(), IMAGES), "the network is TorchScript"),
        (lambda: torch.compile(Net()), "the network is compiled"),
        (compiled_inside, "the module 'body' is compiled"),
        (lambda: Net(reentrant=True), "the module 'body' runs under activation checkpointing"),
        (made_for_inference, "the module 'first' was made or loaded under torch.inference_mode"),
    ],
)
def test_it_says_which_module_and_what_to_give(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(DebrideError, match=said):
        find_groups(make(), IMAGES)


def test_what_is_no_obstacle_passes_and_stays_as_it_was() -> None:
    net = Net(reentrant=False).train()
    check_plain(net, IMAGES)
    assert net.training
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert [group.name for group in find_groups(net, IMAGES).groups] == ["first", "body.1"]


def test_inference_mode_is_named() -> None:
    with torch.inference_mode(), pytest.raises(DebrideError, match=r"outside of it"):
        check_plain(Net())
