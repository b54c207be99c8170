"""Where what was removed can be said exactly by what is left, repair says it exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

import debride
from debride.planning.groups import find_groups
from debride.planning.make import finish
from debride.planning.plan import PlannedGroup
from debride.pruning import Pruned
from debride.recovery import begin
from debride.recovery.least_squares import least_squares
from debride.recovery.reconstruction import reconstruction
from debride.recovery.registry import Beginning
from debride.surgery.removal import narrow
from planning import toys


class Block(nn.Module):
    """Patches, attention and MLP behind layer norms, on a residual stream of 16."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, 16, 2, 2)
        self.norm, self.attention = nn.LayerNorm(16), attention
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        tokens = self.norm(x)
        if isinstance(self.attention, ShiftedWindowAttention):
            x = (x + self.attention(tokens)).flatten(1, 2)
        elif isinstance(self.attention, nn.MultiheadAttention):
            tokens = tokens.flatten(1, 2)
            x = x.flatten(1, 2) + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        else:
            x = x.flatten(1, 2) + self.attention(tokens.flatten(1, 2))
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class Normed(nn.Module):
    """A layer norm over the units that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = (
            nn.Conv2d(2, 16, 2, 2),
            nn.LayerNorm(16),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        return self.head(nn.functional.gelu(x))  # type: ignore[no-any-return]


ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    "timm": lambda: Attention(16, num_heads=4, qkv_bias=True),
    "torch": lambda: nn.MultiheadAttention(16, 4, batch_first=True),
    "torchvision Swin": lambda: ShiftedWindowAttention(16, [2, 2], [0, 0], 4),
}


def _repeat(weight: Tensor | None, *, blocks: int = 1) -> None:
    """Have the second half of each block of rows say what the first half says."""
    assert weight is not None
    with torch.no_grad():
        for rows in weight.chunk(blocks):
            half = len(rows) // 2
            rows[half:] = rows[:half].clone()


def _block(name: str) -> nn.Module:
    net = toys.randomise(Block(ATTENTIONS[name]())).double().eval()
    attention = net.attention
    if isinstance(attention, nn.MultiheadAttention):
        projections = [attention.in_proj_weight, attention.in_proj_bias]
    else:
        projections = [attention.qkv.weight, attention.qkv.bias]  # type: ignore[union-attr]
    for each in projections:
        _repeat(each, blocks=3)  # heads 2 and 3 are 0 and 1 again
    if isinstance(attention, ShiftedWindowAttention):
        _repeat(attention.relative_position_bias_table.T)
    for each in net.fc1.parameters():  # type: ignore[union-attr]
        _repeat(each)
    return net


def _normed() -> nn.Module:
    net = toys.randomise(Normed()).double().eval()
    for layer in (net.patch, net.norm):
        for each in layer.parameters():  # type: ignore[union-attr]
            _repeat(each)
    return net


def _batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(16, 2, 8, 8, generator=generator, dtype=torch.float64) for _ in range(5)]


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    **{f"heads, {name}": (lambda name=name: _block(name), "head") for name in ATTENTIONS},
    "second layer of the MLP": (lambda: _block("timm"), "neuron"),
    "behind a layer norm": (_normed, "channel"),
}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", CASES)
def test_what_the_kept_units_can_say_is_repaired_exactly(name: str) -> None:
    make, kind = CASES[name]
    net = make()
    *seen, unseen = _batches()
    groups = find_groups(net, unseen[:1]).groups
    assert any(group.kind == kind for group in groups)
    cut = [
        group.planned(range(group.units // 2 if group.kind == kind else group.units))
        for group in groups
    ]
    wanted = net(unseen).detach()

    def error(ridge: float | None, repair: Beginning = least_squares) -> float:
        small = copy.deepcopy(net)
        narrow(small, cut)
        if ridge is not None:
            repair(net, groups, seen, device="cpu", ridge=ridge)(small, cut)
        return float((small(unseen) - wanted).detach().abs().max() / wanted.abs().max())

    assert error(None) > 0.05
    assert error(1e-12) < 1e-7
    assert error(1e-3) < 0.02 * error(None), "the ridge of every day holds back a little"
    assert error(1e-12, reconstruction) < 1e-7


def _constant(net: nn.Sequential, layer: int, units: slice) -> nn.Sequential:
    """Have some units of a layer say the same of every image."""
    with torch.no_grad():
        net[layer].weight[units] = 0  # type: ignore[index]
        net[layer].bias[units] = 2  # type: ignore[index]
    return net


def _convolutions(*, bias: bool, norm: bool) -> nn.Sequential:
    between = [nn.BatchNorm2d(5)] if norm else []
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=bias), *between, nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3, bias=bias),
    )  # fmt: skip
    return _constant(toys.randomise(net).double().eval(), 0, slice(3, 6))  # type: ignore[arg-type]


def _linears(*, bias: bool) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 6), nn.GELU(), nn.Linear(6, 3, bias=bias))
    return _constant(toys.randomise(net).double().eval(), 1, slice(3, 6))  # type: ignore[arg-type]


CONSTANT: dict[str, tuple[Callable[[], nn.Sequential], tuple[str, ...]]] = {
    "convolution with a bias": (lambda: _convolutions(bias=True, norm=False), ()),
    "convolution that gets a bias": (lambda: _convolutions(bias=False, norm=False), ("2.bias",)),
    "convolution before a batch norm": (lambda: _convolutions(bias=False, norm=True), ()),
    "linear layer with a bias": (lambda: _linears(bias=True), ()),
    "linear layer that gets a bias": (lambda: _linears(bias=False), ("3.bias",)),
}
"""Networks, and the tensors that mean compensation adds."""


def _first_half(net: nn.Module, example: Tensor) -> tuple[PlannedGroup, ...]:
    first, *others = find_groups(net, example).groups
    assert first.units == 6
    return (first.planned([0, 1, 2]), *(group.planned(range(group.units)) for group in others))


@pytest.mark.parametrize("name", CONSTANT)
def test_units_that_always_say_the_same_go_without_a_trace(name: str, tmp_path: Path) -> None:
    make, added = CONSTANT[name]
    net = make()
    *seen, unseen = _batches()
    begin("batchnorm", net, (), seen)(net, ())  # statistics that are those of the images
    cut = _first_half(net, unseen[:1])
    plain = copy.deepcopy(net)
    narrow(plain, cut)
    small = copy.deepcopy(plain)
    begin("mean", net, cut, seen)(small, cut)
    wanted = net(unseen).detach()
    assert float((plain(unseen) - wanted).detach().abs().max()) > 0.01
    torch.testing.assert_close(small(unseen).detach(), wanted, rtol=0, atol=1e-9)
    assert tuple(small.state_dict().keys() - plain.state_dict().keys()) == added

    plan = finish(net, cut, unseen[:1], {})
    Pruned(small, plan, None, (), {}).save(tmp_path / "small")
    loaded = debride.load(tmp_path / "small", net)
    assert torch.equal(loaded(unseen), small(unseen))
