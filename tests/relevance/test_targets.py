"""What is explained: true class, predicted class, one logit, a function."""

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.relevance import Region, attribute


def net(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, outputs)).eval()


IMAGES = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))


def test_predicted_class_by_default():
    model = net(3)
    assert torch.equal(attribute(model, IMAGES).output, model(IMAGES).detach().amax(1))


def test_one_target_for_each_image():
    model = net(3)
    expected = model(IMAGES).detach()[torch.arange(3), torch.tensor([2, 0, 1])]
    assert torch.equal(attribute(model, IMAGES, [2, 0, 1]).output, expected)
    assert torch.equal(attribute(model, IMAGES, torch.tensor([2, 0, 1])).output, expected)


def test_a_single_logit_speaks_for_class_one_and_its_negative_for_class_zero():
    model = net(1)
    logit = model(IMAGES).detach()[:, 0]
    assert torch.equal(attribute(model, IMAGES, 1).output, logit)
    assert torch.equal(attribute(model, IMAGES, 0).output, -logit)
    assert torch.equal(attribute(model, IMAGES).output, logit.abs())


class Wrapped(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.inner, self.wrap = net(2), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


@pytest.mark.parametrize("wrap", [lambda y: (y, None), lambda y: {"logits": y}, lambda y: [y]])
def test_tuples_and_dicts_are_unwrapped(wrap):
    model = Wrapped(wrap)
    assert torch.equal(attribute(model, IMAGES, 1).output, model.inner(IMAGES).detach()[:, 1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "between 0 and 2"),
        ([0, 1], "2 targets were given for 3 images"),
        (-1, "between 0 and 2"),
        ([0.5, 1.0, 2.0], "whole numbers"),
        (Region(None, 1), r"\(B, classes, \*spatial\), not \(3, 3\)"),
    ],
)
def test_impossible_targets_are_refused(target, message):
    with pytest.raises(DebrideError, match=message):
        attribute(net(3), IMAGES, target)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 2, 2), "B of 1 or more"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "preprocessed floating-point"),
    ],
)
def test_impossible_images_are_refused(images, message):
    with pytest.raises(DebrideError, match=message):
        attribute(net(3), images)


def test_unknown_names_are_refused_with_what_is_close():
    with pytest.raises(DebrideError, match="did you mean 'epsilon_plus'"):
        attribute(net(2), IMAGES, rules="epsilon_pluss")
    with pytest.raises(DebrideError, match="no explanation method 'shap'"):
        attribute(net(2), IMAGES, method="shap")
    with pytest.raises(DebrideError, match="no module 'layer9'"):
        attribute(net(2), IMAGES, taps=["layer9"])


def test_a_detached_output_is_refused():
    with pytest.raises(DebrideError, match="does not depend on the images"):
        attribute(Wrapped(lambda y: y.detach()), IMAGES, 0)


def test_gradient_times_input():
    model = net(2)
    found = attribute(model, IMAGES, 1, method="gradient")
    weight = model[1].weight.detach()[1].view(1, 1, 2, 2)
    assert torch.allclose(found.input, IMAGES * weight)


def test_units_taps_every_layer_that_produces_removable_units():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 2),
    ).eval()  # fmt: skip
    found = attribute(model, torch.randn(2, 1, 8, 8), 0, taps="units")
    assert {name: tuple(tap.shape) for name, tap in found.taps.items()} == {
        "1": (2, 4, 6, 6),
        "3": (2, 6, 4, 4),
    }


def test_a_map_of_logits_needs_a_region_that_fits():
    model = nn.Conv2d(1, 3, 1)
    with pytest.raises(DebrideError, match=r"shape \(3, 3, 2, 2\).*give target=Region"):
        attribute(model, IMAGES)
    with pytest.raises(DebrideError, match="between 0 and 2"):
        attribute(model, IMAGES, Region(None, 3))
    with pytest.raises(DebrideError, match=r"\(4, 4\) where the network's maps have \(3, 2, 2\)"):
        attribute(model, IMAGES, Region(torch.ones(4, 4), 0))


def test_a_single_map_speaks_for_class_one_and_its_negative_for_class_zero():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 1, 1)
    maps = model(IMAGES).detach()[:, 0]
    for label, sign in ((1, 1), (0, -1)):
        found = attribute(model, IMAGES, Region(None, label), method="ig", n_steps=2)
        expected = (sign * maps).clamp(min=0).sum((1, 2))
        torch.testing.assert_close(found.output, expected)
