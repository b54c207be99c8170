"""The criteria from weights alone against plain loops."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from debride import score
from debride.criteria.weights import by_unit
from debride.errors import DebrideError
from planning import toys

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LAYERS = ("down", "deep", "up", "join")


@pytest.fixture
def model() -> nn.Module:
    return toys.randomise(toys.SmallUNet())


def filters(model: nn.Module, layer: str) -> npt.NDArray[np.float64]:
    """Give each unit's weights as a row."""
    weight = model.get_parameter(f"{layer}.weight").detach().double().numpy()
    if layer == "up":  # a transposed convolution: (in, out, h, w)
        weight = weight.swapaxes(0, 1)
    return weight.reshape(len(weight), -1)


def test_magnitude_is_the_norm_of_the_producing_weights(model: nn.Module) -> None:
    two = score(model, [IMAGES], criterion="magnitude").values
    one = score(model, [IMAGES], criterion="magnitude_l1").values
    for layer in LAYERS:
        rows = filters(model, layer)
        expected = [math.sqrt(sum(w * w for w in row)) for row in rows]
        assert two[layer].tolist() == pytest.approx(expected, rel=1e-12)
        assert one[layer].tolist() == pytest.approx([sum(map(abs, row)) for row in rows], rel=1e-12)


def test_fpgm_is_the_summed_distance_to_the_other_filters(model: nn.Module) -> None:
    found = score(model, [IMAGES], criterion="fpgm").values
    for layer in LAYERS:
        rows = filters(model, layer)
        expected = [
            sum(math.sqrt(sum((a - b) ** 2 for a, b in zip(one, two, strict=True))) for two in rows)
            for one in rows
        ]
        assert found[layer].tolist() == pytest.approx(expected, rel=1e-9)


def test_fpgm_gives_up_first_what_others_replace() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([-1.0, 1.0, 0.1, 3.0]).view(4, 1, 1, 1))
    found = score(net, [IMAGES], criterion="fpgm").values["0"]
    expected = [2 + 1.1 + 4, 2 + 0.9 + 2, 1.1 + 0.9 + 2.9, 4 + 2 + 2.9]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_bn_scale_is_the_size_of_gamma(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("down_norm.weight")[2] = -0.7
    found = score(model, [IMAGES], criterion="bn_scale").values
    assert float(found["down"][2]) == pytest.approx(0.7)
    for layer in ("down", "up"):
        gamma = model.get_parameter(f"{layer}_norm.weight").detach().abs()
        assert found[layer].tolist() == gamma.tolist()


def test_bn_scale_takes_the_weights_where_no_batch_norm_follows(model: nn.Module) -> None:
    found = score(model, [IMAGES], criterion="bn_scale").values
    sizes = score(model, [IMAGES], criterion="magnitude").values
    for layer in ("deep", "join"):
        assert torch.equal(found[layer], sizes[layer])


def test_bn_scale_without_any_batch_norm_says_so() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    unscaled = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 3), nn.Flatten()
    )
    for model in (plain, unscaled):
        with pytest.raises(DebrideError, match="no layer that can be cut here has one: take 'mag"):
            score(model, [IMAGES], criterion="bn_scale")


def test_random_is_seeded_and_leaves_the_global_generator_alone() -> None:
    model = toys.Flat()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (
        score(model, [IMAGES], criterion="random", seed=s).values for s in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["conv"], one["hidden"][:6])


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("transposed", [False, True])
def test_units_of_grouped_convolutions_have_own_weights(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = kind(16, 32, 3, groups=groups, bias=False, padding=1)
    # silenced, an output or an input takes these weights along
    for side, images in (("out", 32), ("in", 16)):
        rows = by_unit(conv, conv.weight.detach(), side)
        assert len(rows) == images
        for unit in range(images):
            mask = torch.zeros(1, images, 5, 5)
            mask[:, unit] = 1
            read = torch.ones(1, 16, 5, 5) if side == "out" else mask
            said = conv(read) if side == "in" else conv(read) * mask
            (used,) = torch.autograd.grad(said.sum(), conv.weight)
            own = conv.weight.detach()[used != 0]
            assert sorted(rows[unit].tolist()) == sorted(own.tolist())
