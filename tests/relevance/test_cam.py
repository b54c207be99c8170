"""Grad-CAM: the layer that is found, layouts of every kind of network."""

import pytest
import timm
import torch
import torchvision
from monai.networks.nets import UNet
from torch import nn

from debride.errors import DebrideError
from debride.relevance import Region, attribute
from debride.relevance.cam import layout_of

from .networks import Residual, Transformer, randomise_norms

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def loop(activation, gradient, relu):
    """Grad-CAM one image and one channel at a time."""
    heat = torch.zeros(len(activation), *activation.shape[2:], dtype=activation.dtype)
    for image in range(len(activation)):
        for channel in range(activation.shape[1]):
            heat[image] += gradient[image, channel].mean() * activation[image, channel]
    return heat.relu() if relu else heat


@pytest.mark.parametrize("memory", [None, 1e-6])
def test_a_plain_loop(memory):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(784, 2)
    )
    found = attribute(
        model, IMAGES, [0, 1], method="gradcam", layer="1", taps=["0"], relu=False, memory=memory
    )
    activation = model[0](IMAGES).detach()
    gradient = model[3].weight.detach()[[0, 1]].view(2, 4, 14, 14)
    torch.testing.assert_close(found.taps["1"], loop(activation.relu(), gradient, False))
    at_0 = loop(activation, gradient * (activation > 0), False)
    torch.testing.assert_close(found.taps["0"], at_0)
    scaled = torch.nn.functional.interpolate(found.taps["1"][:, None], (16, 16), mode="bilinear")
    torch.testing.assert_close(found.input, scaled.expand(2, 3, 16, 16))


FOUND = {
    "residual": (lambda: randomise_norms(Residual()), 16, "relu", (8, 8)),
    "plain attention": (lambda: Transformer(fused=False), 8, "norm1", (2, 2)),
    "fused attention": (lambda: Transformer(fused=True), 8, "norm1", (2, 2)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=3), 64, "layer4", (2, 2)),
    "timm vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=3, depth=2),
        64, "blocks.1.norm1", (4, 4),
    ),
    "timm deit, two tokens": (
        lambda: timm.create_model(
            "deit_tiny_distilled_patch16_224", img_size=64, num_classes=3, depth=2
        ),
        64, "blocks.1.norm1", (4, 4),
    ),
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=2, num_classes=3,
            depths=(1, 1, 1, 1),
        ),
        64, "norm", (2, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_the_last_layer_that_still_knows_places_is_found(name):
    make, size, layer, grid = FOUND[name]
    torch.manual_seed(0)
    model = make().eval()
    for module in model.modules():  # timm starts some heads at zero
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = attribute(model, images, 1, method="gradcam", relu=False)
    assert {tap: tuple(value.shape) for tap, value in found.taps.items()} == {layer: (2, *grid)}
    assert found.input.shape == images.shape
    assert found.input.abs().amax((1, 2, 3)).min() > 0


def test_tokens_lie_where_their_patches_are():
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Identity()

        def forward(self, x):
            patches = nn.functional.unfold(x, 2, stride=2).transpose(1, 2)
            token = patches.mean(1, keepdim=True)
            return self.norm(torch.cat([token, patches], 1))[:, 1:].sum(1)[:, :1]

    image = torch.zeros(1, 1, 4, 8)
    image[0, 0, 2, 6] = 1  # of patch (1, 3)
    found = attribute(Patches(), image, 1, method="gradcam", layer="norm").taps["norm"]
    assert found.shape == (1, 2, 4)
    assert found[0, 1, 3] == found.max()
    assert (found > 0).sum() == 1


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1, 96, 56, 56), (224, 224), ((56, 56), 1, 0)),
        ((1, 56, 56, 96), (224, 224), ((56, 56), -1, 0)),
        ((1, 7, 4, 768), (224, 112), ((7, 4), -1, 0)),
        ((1, 8, 60, 28), (64, 32), ((60, 28), 1, 0)),
        ((1, 99, 64), (224, 112), ((14, 7), -1, 1)),
        ((1, 201, 64), (224, 224), ((14, 14), -1, 5)),
        ((1, 217, 64), (96, 96, 96), ((6, 6, 6), -1, 1)),
        ((1, 32, 50), (100,), ((50,), 1, 0)),
        ((1, 512, 1, 1), (224, 224), None),
        ((1, 10), (224, 224), None),
    ],
)
def test_layouts(shape, size, expected):
    layout = layout_of(shape, size)
    assert (layout and (layout.grid, layout.channel, layout.extra)) == expected


def test_three_dimensions_and_a_region():
    torch.manual_seed(0)
    model = UNet(3, 1, 2, (4, 8, 16), (2, 2)).eval()
    volume = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    found = attribute(model, volume, Region(None, 1), method="gradcam", layer="model.1.submodule.0")
    assert found.taps["model.1.submodule.0"].shape == (1, 4, 4, 4)
    assert found.input.shape == volume.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "fc"}, r"'fc' has no spatial output, its shape is \(2, 3\)"),
        ({"layer": "nothing"}, "no module 'nothing' to tap"),
    ],
)
def test_impossible_layers_are_refused(options, message):
    with pytest.raises(DebrideError, match=message):
        attribute(randomise_norms(Residual()), IMAGES, 0, method="gradcam", **options)


def test_a_network_without_places_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    with pytest.raises(DebrideError, match="no module with a spatial output"):
        attribute(flat, IMAGES, 0, method="gradcam")
