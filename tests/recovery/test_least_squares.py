"""Least-squares repair against plain loops, and against what is left unrepaired."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from debride.planning.groups import find_groups
from debride.planning.plan import Member, PlannedGroup, Tap
from debride.recovery import begin
from debride.recovery import moments as moments_file
from debride.recovery.least_squares import RIDGE
from debride.recovery.moments import Moments, collect
from debride.surgery.removal import narrow


def _batches(*shape: int, count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(8, *shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    # Correlated channels: what one says, another says too.
    mixed = torch.randn(shape[0], shape[0], generator=generator, dtype=torch.float64)
    return [(torch.einsum("bc...,cd->bd...", x, mixed) + 0.3, torch.zeros(8)) for x in rows]


def _cut(reader: nn.Module, keep: Sequence[int], units: int) -> list[PlannedGroup]:
    members = (Member("0", "out"), Member("1", "in"))
    return [PlannedGroup("0", "channel", units, members, (Tap("0", "0"),), tuple(keep))]


def _slow_patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Every patch of one image batch by plain loops, zero padding included."""
    (ph, pw), (sh, sw), (dh, dw) = layer.padding, layer.stride, layer.dilation  # type: ignore[misc]
    kh, kw = layer.kernel_size
    height = (x.shape[2] + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    rows = []
    for b, i, j in itertools.product(range(len(x)), range(height), range(width)):
        row = []
        for c, u, v in itertools.product(range(x.shape[1]), range(kh), range(kw)):
            y, z = i * sh - ph + u * dh, j * sw - pw + v * dw
            inside = 0 <= y < x.shape[2] and 0 <= z < x.shape[3]
            row.append(float(x[b, c, y, z]) if inside else 0.0)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
)
@settings(deadline=None, max_examples=20)
def test_moments_are_those_of_plain_loops(
    kernel: tuple[int, int], stride: int, padding: int, dilation: int
) -> None:
    layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation).double()
    data = _batches(3, 5, 5, count=2)
    found = collect(nn.Sequential(layer), ["0"], data, "cpu")["0"]
    rows = torch.cat([_slow_patches(layer, x) for x, _ in data])
    every = torch.arange(rows.shape[1])
    torch.testing.assert_close(found.mean, rows.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        found.covariance(every, every), rows.T.cov(correction=0).view(len(every), -1),
        rtol=0, atol=1e-9,
    )  # fmt: skip


def test_a_linear_reader_gets_the_ridge_solution() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).double()
    data = _batches(4, 5)
    keep = [0, 2, 3, 5]
    cut = _cut(net[1], keep, 6)
    small = copy.deepcopy(net)
    narrow(small, cut)
    begin("least_squares", net, cut, data)(small, cut)

    x = net[0](torch.cat([images for images, _ in data]).flatten(0, 1)).detach()
    y = net[1](x).detach()
    kept = x[:, keep]
    centre = kept - kept.mean(0)
    ridge = RIDGE * float(centre.var(0, correction=0).mean()) * len(x)
    # ‖Z w − t‖² + λ‖w − w₀‖² as one plain least-squares problem of stacked rows
    stacked = torch.cat([centre, ridge**0.5 * torch.eye(4, dtype=torch.float64)])
    start = net[1].weight.detach()[:, keep]
    goal = torch.cat([y - y.mean(0), ridge**0.5 * start.T])
    expected = torch.linalg.lstsq(stacked, goal).solution.T
    torch.testing.assert_close(small[1].weight.detach(), expected, rtol=0, atol=1e-9)
    bias = y.mean(0) - expected @ kept.mean(0)
    torch.testing.assert_close(small[1].bias.detach(), bias, rtol=0, atol=1e-9)


def test_what_others_can_say_is_repaired_exactly() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 3, padding=1)).double()
    with torch.no_grad():  # channel 3 repeats 0 and 1, so nothing is lost with it
        net[0].weight[3] = 0.5 * net[0].weight[0] + 2 * net[0].weight[1]
        net[0].bias[3] = 0.5 * net[0].bias[0] + 2 * net[0].bias[1]
    data = _batches(2, 6, 6)
    cut = _cut(net[1], [0, 1, 2], 4)
    outputs = {}
    for name in ("none", "mean", "least_squares"):
        small = copy.deepcopy(net)
        narrow(small, cut)
        begin(name, net, cut, data)(small, cut)
        outputs[name] = float((small(data[0][0]) - net(data[0][0])).detach().abs().max())
    assert outputs["none"] > 0.5
    assert outputs["mean"] < outputs["none"]
    assert outputs["least_squares"] < 0.02 * outputs["none"]  # the ridge holds back a little


def test_mean_compensation_adds_the_average_of_what_went() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)).double()
    data = _batches(4, 5)
    cut = _cut(net[1], [1, 4], 6)
    small = copy.deepcopy(net)
    narrow(small, cut)
    begin("mean", net, cut, data)(small, cut)
    x = net[0](torch.cat([images for images, _ in data]).flatten(0, 1)).detach()
    gone = [0, 2, 3, 5]
    expected = net[1].bias + net[1].weight[:, gone] @ x[:, gone].mean(0)
    torch.testing.assert_close(small[1].bias, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(small[1].weight, net[1].weight[:, [1, 4]], rtol=0, atol=0)


def test_a_wide_layer_keeps_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(40, 6, dtype=torch.float64)
    whole = Moments(6)
    whole.add(rows)
    monkeypatch.setattr(moments_file, "WIDEST", 5)
    held = Moments(6)
    held.add(rows)
    every = torch.arange(6)
    torch.testing.assert_close(
        held.covariance(every, every), whole.covariance(every, every), rtol=0, atol=1e-12
    )
    weight = torch.randn(3, 2, dtype=torch.float64)
    lost, kept = every[:2], every[2:]
    for centred in (True, False):  # by way of samples, and of the covariance: one answer
        found = [m.replace(weight, lost, kept, 0.1, centred=centred) for m in (held, whole)]
        torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "images", "drawn"),
    [(3, 40, 40 * 64), (3, 1024, 8192), (100, 4096, 4096 * 4)],  # at most 64 an image, 8192, 16 · D
)
def test_patches_drawn_are_many_enough_and_no_more(channels: int, images: int, drawn: int) -> None:
    net = nn.Sequential(nn.Conv2d(channels, 2, 3, padding=1))
    data = [torch.randn(images // 4, channels, 9, 9) for _ in range(4)]
    assert collect(net, ["0"], data, "cpu")["0"].count == drawn


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 2), nn.Flatten(), nn.Linear(4 * 8, 3)
        ),
        (2, 5, 5, 5),
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(),
            nn.Conv2d(6, 3, 1),
        ),
        (2, 5, 5),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        ),
        (2, 9, 9),
    ),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4), nn.LayerNorm(4)),
        (6, 4),
    ),
    "group norm over what is cut": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 16, 3), nn.GroupNorm(1, 16), nn.ReLU(), nn.Conv2d(16, 3, 3),
        ),
        (2, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_repair_brings_outputs_nearer_on_images_it_has_not_seen(name: str) -> None:
    torch.manual_seed(1)
    make, shape = NETWORKS[name]
    net = make().double().eval()
    data = _batches(*shape, count=12)
    begin("batchnorm", net, (), data)(net, ())  # statistics that fit its images
    seen, unseen = data[:9], torch.cat([x for x, _ in data[9:]])
    groups = find_groups(net, unseen[:1]).groups
    cut = [group.planned(range(0, group.units, 2)) for group in groups]
    before = copy.deepcopy(net.state_dict())
    errors = {}
    for repair in ("none", "least_squares", "reconstruction"):
        small = copy.deepcopy(net)
        narrow(small, cut)
        begin(repair, net, groups, seen)(small, cut)
        errors[repair] = float((small(unseen) - net(unseen)).detach().pow(2).mean())
    assert errors["least_squares"] < 0.7 * errors["none"]
    assert errors["reconstruction"] < 0.7 * errors["none"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())
