"""Occlusion: a plain loop over windows, options."""

import itertools

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.relevance import attribute

IMAGES = torch.randn(3, 2, 7, 5, generator=torch.Generator().manual_seed(0)).double()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(70, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("memory", [None, 1e-7])
@pytest.mark.parametrize(("window", "stride"), [((3, 2), (2, 1)), ((4, 4), (4, 4))])
def test_a_plain_loop(window, stride, memory):
    model = network()
    found = attribute(
        model, IMAGES, [0, 1, 2], method="occlusion", window=window, stride=stride,
        baseline="mean", memory=memory,
    ).input  # fmt: skip
    total, count = torch.zeros(3, 7, 5).double(), torch.zeros(7, 5)
    corners = [
        [c for c in range(0, side, s) if c == 0 or c - s + w < side]
        for side, w, s in zip((7, 5), window, stride, strict=True)
    ]
    for top, left in itertools.product(*corners):
        place = slice(top, top + window[0]), slice(left, left + window[1])
        count[place] += 1
        for image, label in enumerate([0, 1, 2]):
            covered = IMAGES[image : image + 1].clone()
            for channel in range(2):
                covered[0, channel][place] = IMAGES[image, channel].mean()
            before, after = (model(x)[0, label] for x in (IMAGES[image : image + 1], covered))
            total[image][place] += (before - after).detach()
    torch.testing.assert_close(found, (total / count)[:, None].expand(3, 2, 7, 5))


def test_it_works_where_no_gradient_does():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    image = torch.arange(16.0).view(1, 1, 4, 4)
    found = attribute(Detached(), image, 5, method="occlusion", window=2, stride=2).input[0, 0]
    assert found[:2, :2].tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert found[2:].abs().max() == 0


def test_defaults_cover_every_pixel():
    image = torch.rand(1, 1, 30, 21)
    found = attribute(nn.Flatten(), image, lambda out: out.sum(1), method="occlusion").input
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 8}, r"window \(8, 8\) is larger than the image \(7, 5\)"),
        ({"window": 2, "stride": 3}, "skips pixels"),
        ({"window": (2, 2, 2)}, "for each of 2 sides"),
        ({"window": 0}, "1 or more pixels"),
        ({"taps": ["1"]}, "leave out taps"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(DebrideError, match=message):
        attribute(network(), IMAGES, 0, method="occlusion", **options)
