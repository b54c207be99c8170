"""SmoothGrad: closed forms, its own random numbers."""

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.relevance import attribute

IMAGES = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def cubes(output):
    return (output**3).sum(1)


@pytest.mark.parametrize("times_input", [True, False])
@pytest.mark.parametrize("squared", [True, False])
def test_a_linear_network_has_its_weights(squared, times_input):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    found = attribute(
        model, IMAGES, 1, method="smoothgrad", n_samples=4, squared=squared,
        times_input=times_input,
    ).input  # fmt: skip
    weight = model[1].weight.detach()[1].view(1, 4, 4).expand_as(IMAGES)
    expected = (weight**2 if squared else weight) * (IMAGES if times_input else 1)
    torch.testing.assert_close(found, expected)


def test_noise_is_in_parts_of_the_range_of_each_image():
    # The mean gradient of x³ under noise of deviation s is 3x² + 3s².
    images = torch.cat([IMAGES[:1], 10 * IMAGES[1:2]])
    found = attribute(
        nn.Flatten(), images, cubes, method="smoothgrad", n_samples=3000, noise=0.15,
        times_input=False,
    ).input  # fmt: skip
    for image, gradient in zip(images, found, strict=True):
        deviation = 0.15 * (image.max() - image.min())
        excess = (gradient - 3 * image**2).mean() / 3
        assert float(excess.sqrt()) == pytest.approx(float(deviation), rel=0.1)


def test_the_seed_decides_and_batches_do_not():
    options = {"method": "smoothgrad", "n_samples": 7, "taps": ["0"]}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    one = attribute(model, IMAGES, 0, **options)
    same = attribute(model, IMAGES, 0, memory=1e-7, **options)
    other = attribute(model, IMAGES, 0, seed=1, **options)
    torch.testing.assert_close(one.input, same.input)
    torch.testing.assert_close(one.taps["0"], same.taps["0"])
    assert not torch.allclose(one.input, other.input)


def test_the_predicted_class_is_that_of_the_clean_image():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    found = attribute(model, IMAGES, method="smoothgrad", noise=50.0, times_input=False)
    weight = model[1].weight.detach()[model(IMAGES).argmax(1)].view_as(IMAGES)
    torch.testing.assert_close(found.input, weight)


@pytest.mark.parametrize("options", [{"n_samples": 0}, {"noise": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(DebrideError, match="n_samples of 1 or more"):
        attribute(nn.Flatten(), IMAGES, 0, method="smoothgrad", **options)
