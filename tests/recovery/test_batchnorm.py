from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.recovery import begin, recalibrate, recovery_names
from planning import toys

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [torch.randn(5, 1, 6, 6, generator=GENERATOR) + shift for shift in (0, 2, -1)]


def _net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5))
    return cast(nn.Sequential, toys.randomise(net))


def test_statistics_are_the_mean_over_batches() -> None:
    net = _net()
    recalibrate(net, BATCHES)
    with torch.no_grad():
        maps = [net[0](images) for images in BATCHES]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variance = torch.stack([m.var((0, 2, 3), unbiased=True) for m in maps]).mean(0)
    norm = cast(nn.BatchNorm2d, net[1])
    assert torch.allclose(cast(Tensor, norm.running_mean), mean, atol=1e-6)
    assert torch.allclose(cast(Tensor, norm.running_var), variance, atol=1e-6)
    assert int(cast(Tensor, norm.num_batches_tracked)) == 3


def test_everything_else_stays() -> None:
    net = _net().train()
    net[1].eval()
    net[0].requires_grad_(False)
    weights = {name: p.clone() for name, p in net.named_parameters()}
    state = torch.get_rng_state()
    assert recalibrate(net, BATCHES) is net
    assert cast(nn.BatchNorm2d, net[1]).momentum == 0.3
    assert [m.training for m in net] == [True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert torch.equal(torch.get_rng_state(), state), "dropout must not draw"


def test_labels_are_ignored_and_dicts_taken() -> None:
    one, two = _net(), _net()
    recalibrate(one, [(images, torch.zeros(5)) for images in BATCHES])
    recalibrate(two, [{"image": images} for images in BATCHES])
    for key, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[key], value)


def test_a_network_without_batch_norm_comes_back_unchanged() -> None:
    net = nn.Conv2d(1, 2, 3)
    assert recalibrate(net, []) is net


@pytest.mark.parametrize("data", [[], [torch.zeros(1, 1, 4, 4)]], ids=["empty", "one image"])
def test_without_images_the_statistics_are_kept(data: list[Tensor]) -> None:
    net = toys.randomise(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(DebrideError, match="needs two images or more"):
        recalibrate(net, data)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_last_batch_of_one_image_is_no_obstacle() -> None:
    net = toys.randomise(toys.Flat())
    recalibrate(net, [torch.randn(4, 1, 8, 8), torch.randn(1, 1, 8, 8)])
    norm = cast(toys.Flat, net).hidden_norm
    assert int(cast(Tensor, norm.num_batches_tracked)) == 1


def test_single_images_are_taken_in_pairs() -> None:
    one, two = _net(), _net()
    images = torch.cat(BATCHES)[:8]
    recalibrate(one, images.split(1))
    recalibrate(two, images.split(2))
    for key, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[key], value)


def test_recoveries_by_name() -> None:
    assert recovery_names() == ("none", "batchnorm", "least_squares", "mean", "reconstruction")
    net = _net()
    before = cast(Tensor, net[1].running_mean).clone()
    for name in (None, "none"):
        begin(name, net, (), BATCHES)(net, ())
    assert torch.equal(cast(Tensor, net[1].running_mean), before)
    begin("batchnorm", net, (), BATCHES)(net, ())
    assert not torch.equal(cast(Tensor, net[1].running_mean), before)
    with pytest.raises(DebrideError, match="did you mean 'batchnorm'"):
        begin("batch_norm", net, (), BATCHES)


def test_single_volumes_of_two_sizes_stay_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    )
    volumes = [torch.randn(1, 1, 8, 8, 8), torch.randn(1, 1, 8, 8, 10), torch.randn(1, 1, 8, 8, 10)]
    recalibrate(net, volumes)
    seen = [net[0](volumes[0]), net[0](torch.cat(volumes[1:]))]
    expected = torch.stack([each.mean((0, 2, 3, 4)) for each in seen]).mean(0)
    torch.testing.assert_close(net[1].running_mean, expected)
