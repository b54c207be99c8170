"""Reconstruction against plain least squares, layer after layer, and against the symmetric one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer

from debride.planning.groups import find_groups
from debride.planning.plan import Member, PlannedGroup, Tap
from debride.recovery import begin
from debride.recovery.reconstruction import _sample, fit, reconstruction
from debride.surgery.removal import narrow

RIDGE = 0.05


def _slow_fit(x: Tensor, y: Tensor, start: Tensor, ridge: float, *, centred: bool) -> Tensor:
    """Weights near `start` that say y of x: one plain least-squares problem of stacked rows."""
    if centred:
        x, y = x - x.mean(0), y - y.mean(0)
    firm = np.sqrt(ridge * float(x.square().mean()) * len(x))
    rows = np.concatenate([x.numpy(), firm * np.eye(x.shape[1])])
    goal = np.concatenate([y.numpy(), firm * start.T.numpy()])
    return torch.from_numpy(np.linalg.lstsq(rows, goal, rcond=None)[0].T)


@pytest.mark.parametrize("patches", [50, 5])  # more, and fewer, than numbers in one
@pytest.mark.parametrize(("bias", "centred"), [(True, False), (False, True), (False, False)])
def test_a_fit_is_the_ridge_solution(patches: int, bias: bool, centred: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 3, bias=bias).double()
    start = layer.weight.detach().clone()
    x = torch.randn(patches, 8, dtype=torch.float64) + 0.5
    y = torch.randn(patches, 3, dtype=torch.float64) + 2
    fit(layer, x, y, RIDGE, centred=centred)
    expected = _slow_fit(x, y, start, RIDGE, centred=bias or centred)
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=1e-9)
    if bias:
        left = y.mean(0) - expected @ x.mean(0)
        torch.testing.assert_close(layer.bias.detach(), left, rtol=0, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_every_group_of_a_grouped_convolution_is_fitted_for_itself(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 9, 2, groups=3, bias=bias).double()
    start = layer.weight.detach().flatten(1).clone()
    x = torch.randn(40, 6 * 4, dtype=torch.float64) + 0.5
    y = torch.randn(40, 9, dtype=torch.float64)
    fit(layer, x, y, RIDGE)
    for part in range(3):
        rows, columns = slice(3 * part, 3 * part + 3), slice(8 * part, 8 * part + 8)
        expected = _slow_fit(x[:, columns], y[:, rows], start[rows], RIDGE, centred=bias)
        found = layer.weight.detach().flatten(1)[rows]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_patches_that_say_nothing_leave_the_weights() -> None:
    layer = nn.Linear(4, 2)
    before = layer.weight.detach().clone()
    fit(layer, torch.ones(6, 4), torch.randn(6, 2), RIDGE)
    assert torch.equal(layer.weight.detach(), before)


def test_every_layer_is_fitted_on_what_the_layers_before_it_now_say() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)
    ).double()
    images = torch.randn(40, 1, 6, dtype=torch.float64)
    cut = [
        PlannedGroup("0", "neuron", 9, (Member("0", "out"), Member("2", "in")), (Tap("0", "0"),),
                     (0, 2, 3, 5, 8)),
        PlannedGroup("2", "neuron", 7, (Member("2", "out"), Member("4", "in")), (Tap("2", "2"),),
                     (1, 2, 4)),
    ]  # fmt: skip
    small = copy.deepcopy(net)
    narrow(small, cut)
    start = copy.deepcopy(small)
    reconstruction(net, cut, [(images, None)], device="cpu", ridge=RIDGE)(small, cut)

    x = whole = images[:, 0]
    for place, kept in (("0", cut[0].keep), ("2", cut[1].keep), ("4", (0, 1, 2))):
        whole = net.get_submodule(place)(whole).detach()
        y = whole[:, list(kept)]
        old = start.get_submodule(place).weight.detach()
        weight = _slow_fit(x, y, old, RIDGE, centred=True)
        bias = y.mean(0) - weight @ x.mean(0)
        found = small.get_submodule(place)
        torch.testing.assert_close(found.weight.detach(), weight, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.bias.detach(), bias, rtol=0, atol=1e-9)
        x, whole = (x @ weight.T + bias).tanh(), whole.tanh()


def test_a_convolution_before_a_batch_norm_is_fitted_up_to_its_mean() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 25, 3),
    ).double().eval()  # fmt: skip
    images = torch.randn(30, 2, 5, 5, dtype=torch.float64)
    groups = find_groups(net, images[:1]).groups
    cut = [group.planned(range(0, group.units, 2)) for group in groups]
    small = copy.deepcopy(net)
    narrow(small, cut)
    start = small[3].weight.detach().flatten(1).clone()
    reconstruction(net, groups, [(images, None)], device="cpu", ridge=RIDGE)(small, cut)
    x = small[2](small[1](small[0](images))).permute(0, 2, 3, 1).flatten(0, 2).detach()
    y = net[:4](images)[:, ::2].permute(0, 2, 3, 1).flatten(0, 2).detach()
    expected = _slow_fit(x, y, start, RIDGE, centred=True)
    torch.testing.assert_close(small[3].weight.detach().flatten(1), expected, rtol=0, atol=1e-9)
    said = x @ expected.T
    torch.testing.assert_close(small[4].running_mean, said.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(small[4].running_var, said.var(0), rtol=0, atol=1e-9)


def test_what_is_not_finite_leaves_the_weights() -> None:
    layer = nn.Linear(4, 2)
    before = layer.weight.detach().clone()
    patches = torch.randn(6, 4)
    patches[3, 2] = torch.inf
    fit(layer, patches, torch.randn(6, 2), RIDGE)
    assert torch.equal(layer.weight.detach(), before)


def test_images_of_two_sizes_and_a_norm_of_one_value() -> None:
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(4, 2),
    ).eval()  # fmt: skip
    data = [torch.randn(1, 1, 8, 8), torch.randn(3, 1, 12, 12)]
    calls = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "debride.recovery.reconstruction.recalibrate", lambda *_, **__: calls.append(1)
        )
        reconstruction(net, [], data, device="cpu")(net, [])
        assert calls == [1]  # there are images that the sample does not have
        reconstruction(net, [], data[:1], device="cpu")(net, [])
        assert calls == [1]
    assert torch.equal(net[2].running_var, torch.ones(4))
    assert all(bool(torch.isfinite(each).all()) for each in net.state_dict().values())


def test_the_sample_is_drawn_from_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("debride.recovery.reconstruction.IMAGES", 40)
    images = torch.arange(400.0).view(400, 1, 1, 1)  # in order, as a folder's classes are
    sample, every = _sample(images.split(7))
    drawn = sample.flatten().tolist()
    assert (len(drawn), len(set(drawn)), every) == (40, 40, False)
    # the mean of 40 of them without replacement: 199.5 ± 17.3
    assert abs(sum(drawn) / 40 - 199.5) < 2 * 17.3
    assert torch.equal(_sample(images.split(400))[0], sample)
    few, every = _sample(images[:40].split(7))
    assert torch.equal(few, images[:40])
    assert every


class Twice(nn.Module):
    """One layer that runs twice, and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.shared, self.idle = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(self.one(x)).relu())  # type: ignore[no-any-return]


def test_a_layer_that_runs_twice_or_never_stays_as_it_was() -> None:
    net = Twice().double()
    groups = [PlannedGroup("one", "neuron", 6, (), (), tuple(range(6)))]
    small = copy.deepcopy(net)
    with torch.no_grad():
        small.one.weight.mul_(0.5)
    reconstruction(
        net, groups, [torch.randn(20, 1, 4, dtype=torch.float64)], device="cpu", ridge=1e-9
    )(small, groups)
    torch.testing.assert_close(small.one.weight, net.one.weight, rtol=0, atol=1e-7)
    for name in ("shared", "idle"):
        assert torch.equal(small.get_submodule(name).weight, net.get_submodule(name).weight)  # type: ignore[arg-type]


def _deep() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (3, *[16] * 7):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


def test_errors_of_a_deep_network_add_up_less_than_with_least_squares() -> None:
    torch.manual_seed(3)
    net = _deep().double().eval()
    data = [torch.randn(50, 3, 9, 9, dtype=torch.float64) for _ in range(4)]
    begin("batchnorm", net, (), data)(net, ())
    *seen, unseen = data
    groups = find_groups(net, unseen[:1]).groups
    cut = [group.planned(range(0, group.units, 2)) for group in groups]
    before = copy.deepcopy(net.state_dict())
    errors = {}
    for name in ("batchnorm", "least_squares", "reconstruction"):
        small = copy.deepcopy(net)
        narrow(small, cut)
        begin(name, net, groups, seen)(small, cut)
        errors[name] = float((small(unseen) - net(unseen)).detach().square().mean())
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in small.modules())
    assert errors["reconstruction"] < 0.7 * errors["least_squares"] < 0.7 * errors["batchnorm"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("grouped", [4, 16])  # some to a group, and depthwise
def test_grouped_convolutions_are_reconstructed(grouped: int) -> None:
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=grouped, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 12, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).double().eval()  # fmt: skip
    data = [torch.randn(50, 3, 9, 9, dtype=torch.float64) for _ in range(4)]
    begin("batchnorm", net, (), data)(net, ())
    *seen, unseen = data
    groups = find_groups(net, unseen[:1]).groups
    assert any(member.module == "3" for group in groups for member in group.members)
    cut = [group.planned(range(0, group.units, 2)) for group in groups]
    errors = {}
    for name in ("none", "least_squares", "reconstruction"):
        small = copy.deepcopy(net)
        narrow(small, cut)
        begin(name, net, groups, seen)(small, cut)
        errors[name] = float((small(unseen) - net(unseen)).detach().square().mean())
    assert errors["reconstruction"] < errors["least_squares"] < errors["none"]


class Slices(nn.Module):
    """2.5-D: the slices of a volume are the batch of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(1, 8, 3), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, volumes: Tensor) -> Tensor:
        count, channels, depth, height, width = volumes.shape
        slices = volumes.transpose(1, 2).reshape(count * depth, channels, height, width)
        found = self.two(self.one(self.conv(slices).relu().mean((2, 3))).relu())
        return found.reshape(count, depth, 3).mean(1)  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """Tokens come before images in the shape of what its layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.one, self.two, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).permute(2, 0, 1)
        return self.head(self.two(self.one(tokens).relu()).mean(0))  # type: ignore[no-any-return]


class OwnPadding(nn.Conv2d):
    """Pads on its own, and more than its map has, as TensorFlow's convolutions do."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.pad(images, (1, 3, 1, 3)))


class Standardised(nn.Conv2d):
    """Computes with other weights than it has."""

    def forward(self, images: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return F.conv2d(images, weight, self.bias)


def _own(layer: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), layer, nn.ReLU(), nn.Conv2d(6, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Slices(), (16, 1, 80, 8, 8)),
        (Tokens(), (64, 3, 64, 64)),
        (_own(OwnPadding(4, 6, 5, 2)), (8, 1, 5, 5)),
        (_own(Standardised(4, 6, 3)), (8, 1, 8, 8)),
        (
            SwinTransformer((4, 4), 16, [1, 1], [2, 4], [4, 4], num_classes=3),
            (8, 3, 64, 64),
        ),
    ],
    ids=["slices", "tokens", "own padding", "standardised", "windows"],
)
def test_where_nothing_is_cut_nothing_moves(net: nn.Module, shape: tuple[int, ...]) -> None:
    """Whatever a batch is to a layer, and whatever it does with its weights."""
    torch.manual_seed(6)
    images = torch.randn(shape)
    repaired = copy.deepcopy(net.eval())
    reconstruction(net, [], [images], device="cpu")(repaired, [])
    for before, after in zip(net.parameters(), repaired.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=2e-5)


@pytest.mark.parametrize("net", [Slices(), Tokens()], ids=["slices", "tokens"])
def test_a_damaged_layer_is_made_good_by_the_one_behind_it(net: nn.Module) -> None:
    """Rows are those of the same slice, or token, of the same image: else nothing is made good."""
    torch.manual_seed(7)
    images = torch.randn((16, 1, 80, 8, 8) if isinstance(net, Slices) else (64, 3, 64, 64))
    broken = copy.deepcopy(net.eval())
    with torch.no_grad():  # twice as much of everything, which the next layer can halve
        broken.get_parameter("two.weight").mul_(2)
        broken.get_parameter("two.bias").mul_(2)
        said = net(images)
        before = (broken(images) - said).norm() / said.norm()
        reconstruction(net, [], [images], device="cpu", ridge=1e-6)(broken, [])
        after = (broken(images) - said).norm() / said.norm()
    assert before > 0.1
    assert after < 1e-3


class Prompt(nn.Module):
    """A layer that reads one vector, and one map, without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("prompt", torch.ones(4))
        self.register_buffer("map", torch.ones(2, 6, 6))
        self.ask, self.look = nn.Linear(4, 8), nn.Conv2d(2, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        alone = self.ask(self.prompt) + self.look(self.map).mean((1, 2))
        return self.head(images.mean((2, 3)) * alone)  # type: ignore[no-any-return]


def test_layers_without_a_batch_are_left() -> None:
    net, images = Prompt().eval(), torch.randn(16, 8, 4, 4)
    repaired = copy.deepcopy(net)
    reconstruction(net, [], [images], device="cpu")(repaired, [])
    for before, after in zip(net.parameters(), repaired.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=2e-5)


class _Stack(nn.Module):
    """Two layers that may share their weights or their batch norm."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a = nn.Conv2d(1, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.d = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if kind == "norm" else nn.Identity()
        self.head = nn.Linear(8, 3)
        if kind == "tied":
            self.d.weight = self.c.weight
        if kind == "computed":
            nn.utils.parametrizations.weight_norm(self.head)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.b(self.a(images).relu())).relu()
        x = self.d(self.c(x).relu() * 3 + 1)
        return self.head(self.norm(x).relu().mean((2, 3)))


IMAGES = torch.randn(64, 1, 12, 12, generator=torch.Generator().manual_seed(0)) + 1


def _repaired(
    model: nn.Module, images: Tensor, share: float = 0.5, recovery: str = "reconstruction"
) -> nn.Module:
    groups = find_groups(model, images[:1]).groups
    cut = [group.planned(range(max(1, int(share * group.units)))) for group in groups]
    small = copy.deepcopy(model)
    narrow(small, cut)
    begin(recovery, model, groups, [images])(small, cut)
    return small


@pytest.mark.parametrize(("kind", "left"), [("tied", "c"), ("tied", "d"), ("computed", "head")])
def test_weights_that_a_layer_does_not_own_are_left(kind: str, left: str) -> None:
    model = _Stack(kind).eval()
    layer = _repaired(model, IMAGES).get_submodule(left)
    for name, value in model.get_submodule(left).state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, rtol=0, atol=0)


def test_a_batch_norm_of_two_layers_keeps_the_statistics_of_both() -> None:
    model = _Stack("norm").train()
    for _ in range(60):
        model(IMAGES)
    model.eval()
    same, measured = (_repaired(model, IMAGES, 1, how) for how in ("reconstruction", "batchnorm"))
    torch.testing.assert_close(same(IMAGES), measured(IMAGES), rtol=0, atol=1e-4)
    torch.testing.assert_close(same.norm.running_mean, measured.norm.running_mean)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "channels_last"])
def test_other_precisions_and_layouts_are_repaired_alike(kind: str) -> None:
    model = _Stack().eval()
    expected = _repaired(model, IMAGES)(IMAGES)
    if kind == "channels_last":
        images = IMAGES.contiguous(memory_format=torch.channels_last)
        found = _repaired(copy.deepcopy(model).to(memory_format=torch.channels_last), images)(
            images
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        return
    dtype = getattr(torch, kind)
    small = _repaired(copy.deepcopy(model).to(dtype), IMAGES.to(dtype))
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    found = small.float()(IMAGES)
    whole = model(IMAGES)
    assert (found - whole).norm() < 1.1 * (expected - whole).norm() + 0.01 * whole.norm()
