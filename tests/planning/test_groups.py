from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from debride import score
from debride.errors import DebrideError
from debride.planning.groups import find_groups
from debride.planning.plan import Member, Tap

from . import toys

IMAGES = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def _names(model: nn.Module) -> list[tuple[str, int]]:
    found = find_groups(toys.randomise(model), IMAGES)
    return [(group.name, group.units) for group in found.groups]


def test_a_flattened_channel_is_a_block_of_inputs() -> None:
    conv, hidden = find_groups(toys.Flat(), IMAGES).groups
    assert (conv.kind, conv.units, hidden.kind, hidden.units) == ("channel", 6, "neuron", 10)
    assert set(conv.members) == {
        Member("conv", "out"), Member("norm", "out"), Member("hidden", "in", block=16),
    }  # fmt: skip
    assert conv.taps == (Tap("conv", "norm"),)
    assert hidden.taps == (Tap("hidden", "hidden_norm"),)


def test_a_concatenation_gives_offsets() -> None:
    groups = {group.name: group for group in find_groups(toys.SmallUNet(), IMAGES).groups}
    assert Member("join", "in", offset=7) in groups["down"].members
    assert Member("join", "in") in groups["up"].members
    assert groups["up"].taps == (Tap("up", "up_norm"),)


def test_a_residual_sum_has_several_producers() -> None:
    groups = find_groups(toys.Volume(), torch.zeros(1, 1, 8, 8, 8)).groups
    residual = next(group for group in groups if len(group.taps) > 1)
    assert set(residual.taps) == {Tap("stem", "norm"), Tap("inner", "inner_norm")}
    assert Member("act", "out") in residual.members


class _Twice(nn.Module):
    """One convolution whose output is read by a batch norm, and by what `beside` names."""

    def __init__(self, beside: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.second, self.head = nn.BatchNorm2d(6), nn.Linear(6, 2)
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.norm(y)
        if self.beside == "skip":
            z = z + y
        if self.beside == "norm":
            z = z + self.second(y)
        if self.beside == "again":
            z = self.second(self.conv(x)) + z
        return self.head(z.amax((2, 3)))


@pytest.mark.parametrize("beside", ["nothing", "skip", "norm", "again"])
def test_the_norm_speaks_for_a_layer_only_where_nothing_else_reads_it(beside: str) -> None:
    (conv,) = find_groups(toys.randomise(_Twice(beside)), IMAGES).groups
    assert conv.units == 6
    assert conv.taps == (Tap("conv", "norm" if beside == "nothing" else "conv"),)


def test_a_norm_of_two_layers_speaks_for_neither() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.first(images)).relu()
            return self.head(self.norm(self.second(x)).relu().mean((2, 3)))

    model = toys.randomise(Shared())
    (group,) = find_groups(model, IMAGES).groups
    assert group.taps == (Tap("first", "first"), Tap("second", "second"))
    scores = score(model, [(IMAGES, torch.tensor([0]))], criterion="taylor").values
    assert {name: len(values) for name, values in scores.items()} == {"first": 6, "second": 6}


def test_the_classes_are_never_cut() -> None:
    assert _names(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))) == [("0", 8)]
    assert _names(toys.Flat()) == [("conv", 6), ("hidden", 10)]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.LayerNorm([8, 8, 8]), "layer_norm runs along"),
        (nn.LocalResponseNorm(3), "local_response_norm mixes"),
        (nn.ChannelShuffle(2), "orders its channels irregularly"),
        (toys.Mixing("softmax"), "softmax mixes"),
        (toys.Mixing("normalize"), "normalize mixes"),
        (toys.Mixing("centre"), "mean runs along"),
        (toys.Mixing("layer_norm"), "layer_norm runs along"),
        (toys.Mixing("roll"), "orders its channels irregularly"),
        (toys.Mixing("view"), "silencing"),
        (toys.Mixing("matmul"), "matmul mixes"),
        (toys.Mixing("scale"), "bare parameter"),
    ],
    ids=lambda value: getattr(value, "kind", type(value).__name__) if value else "",
)
def test_what_mixes_channels_is_left_alone_with_a_reason(between: nn.Module, reason: str) -> None:
    found = find_groups(toys.randomise(toys.Tail(between)), IMAGES)
    assert [(group.name, group.units) for group in found.groups] == [("second", 6)]
    assert any(reason in left.reason for left in found.left_alone), found.left_alone


@pytest.mark.parametrize(
    ("between", "units", "block"),
    [
        (nn.GroupNorm(1, 8), 8, 1),
        (nn.GroupNorm(8, 8), 8, 1),
        (nn.GroupNorm(2, 8), 2, 4),
        (nn.GroupNorm(4, 8, affine=False), 4, 2),
        (nn.InstanceNorm2d(8), 8, 1),
        (nn.InstanceNorm2d(8, affine=True, track_running_stats=True), 8, 1),
        (toys.ChannelsLast(nn.LayerNorm(8)), 8, 1),
        (toys.ChannelsLast(nn.RMSNorm(8)), 8, 1),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), 2, 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=4), 4, 2),
        (nn.Conv2d(8, 16, 3, padding=1, groups=8), 8, 1),
        (nn.ConvTranspose2d(8, 4, 1, groups=2), 2, 4),
    ],
    ids=str,
)
def test_norms_and_grouped_convolutions_say_what_goes_together(
    between: nn.Module, units: int, block: int
) -> None:
    after = getattr(between, "out_channels", 8)
    found = find_groups(toys.randomise(toys.Tail(between, after=after)), IMAGES)
    first = next(group for group in found.groups if group.name == "first")
    assert first.units == units
    assert Member("first", "out", block=block) in first.members
    assert Member("second", "in", block=block * after // 8) in first.members
    assert not found.left_alone


def test_parametrized_weights_are_left_alone() -> None:
    found = find_groups(toys.parametrized(), IMAGES)
    assert [group.name for group in found.groups] == ["second"]
    assert "parametrized" in found.left_alone[0].reason


def test_tied_weights_are_left_alone() -> None:
    found = find_groups(toys.randomise(toys.TiedWeights()), IMAGES)
    cut = {member.module for group in found.groups for member in group.members}
    assert cut == {"last", "head"}
    assert "layers share one weight" in {left.reason for left in found.left_alone}


class LastHeight(nn.Module):
    """Flattened with the channels last: no offset and block describes that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))


class Attention(nn.Module):
    """A block of attention; `how` says what else happens to the MLP's hidden layer."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.other = nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = t + self.attend(t, t, t)[0]
        hidden = F.gelu(self.up(t))
        if self.how == "norm":
            hidden = hidden / hidden.norm(dim=-1, keepdim=True)
        t = t + self.down(hidden)
        if self.how == "two readers":
            t = t + self.other(hidden)
        if self.how == "twice":
            t = t + self.down(F.gelu(self.up(t)))
        return self.head(t.mean(1))


def test_heads_their_dimensions_and_hidden_neurons_are_cut_and_the_stream_is_not() -> None:
    found = find_groups(Attention(), IMAGES)
    heads, dims, hidden = found.groups
    assert (heads.name, heads.kind, heads.units) == ("attend", "head", 2)
    assert heads.members == (
        Member("attend", "heads"),
        *(Member("attend", "out", offset, 4) for offset in (0, 8, 16)),
        Member("attend.out_proj", "in", 0, 4),
    )
    assert heads.taps == (Tap("attend.out_proj", "attend.out_proj@input"),)
    assert (dims.name, dims.kind, dims.units) == ("attend.dims", "head_dim", 4)
    assert Member("attend", "out", 8, 1, repeat=2, stride=4) in dims.members
    assert (hidden.name, hidden.kind, hidden.units) == ("up", "neuron", 12)
    assert hidden.members == (Member("up", "out"), Member("down", "in"))
    assert {left.name for left in found.left_alone} == {"patch", "down"}


def test_a_hidden_layer_with_two_readers_is_cut_in_both() -> None:
    hidden = find_groups(Attention("two readers"), IMAGES).groups[-1]
    assert set(hidden.members) == {Member("up", "out"), Member("down", "in"), Member("other", "in")}


def test_a_map_flattened_with_the_channels_last_repeats_its_units() -> None:
    (conv,) = find_groups(toys.randomise(LastHeight()), IMAGES).groups
    assert Member("head", "in", 0, 1, repeat=64, stride=8) in conv.members


def test_a_channel_that_weighs_the_others_is_left_alone() -> None:
    found = find_groups(toys.randomise(toys.Tail(toys.Mixing("one for all"))), IMAGES)
    assert Member("first", "out", offset=1) in found.groups[0].members
    assert found.groups[0].units == 7
    assert [(left.name, left.units) for left in found.left_alone] == [("first", 1)]
    assert "weighs all others" in found.left_alone[0].reason


def test_gated_halves_go_together() -> None:
    first, second = find_groups(toys.randomise(toys.Gated()), IMAGES).groups
    assert (first.name, first.units) == ("both", 6)
    assert Member("both", "out", 0, 1, repeat=2, stride=6) in first.members
    assert first.shown(first.taps[0], [2]) == [[2, 8]]
    assert second.name == "last"


def test_what_the_network_gives_out_is_not_cut() -> None:
    found = find_groups(toys.randomise(toys.Features()), IMAGES)
    assert [group.name for group in found.groups] == ["last"]


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["linear", "one convolution"],
)
def test_a_network_with_nothing_to_cut_is_refused(net: nn.Module) -> None:
    with pytest.raises(DebrideError, match="can be cut"):
        find_groups(toys.randomise(net), IMAGES)


def test_images_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(DebrideError, match=r"does not run on one image of shape \(3, 8, 8\)"):
        find_groups(toys.Flat(), torch.zeros(1, 3, 8, 8))


def test_the_network_comes_back_as_it_was() -> None:
    net = toys.randomise(toys.Flat()).train()
    net.norm.eval()
    net.head.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    find_groups(net, IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert not net.norm.training
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())
