"""The test of surgery: the physically smaller network gives the same output as the masked one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from debride.models import ModelSpec, build
from debride.models.outputs import logits
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.make import finish
from debride.surgery import apply, narrow
from planning import toys
from planning.test_groups import Attention

TOYS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "volume": (toys.Volume, (1, 8, 8, 8)),
    "unet": (toys.SmallUNet, (1, 8, 8)),
    "flatten": (toys.Flat, (1, 8, 8)),
    "squeeze_excite": (toys.SqueezeExcite, (1, 8, 8)),
    "dense": (toys.Dense, (1, 8, 8)),
    "tuple": (toys.TupleOutput, (1, 8, 8)),
    "dict": (toys.DictOutput, (1, 8, 8)),
    "shared_layer": (toys.SharedLayer, (1, 8, 8)),
    "prelu": (lambda: toys.Tail(nn.PReLU(8)), (1, 8, 8)),
    "one_slope": (lambda: toys.Tail(nn.PReLU()), (1, 8, 8)),
    "depthwise_up": (lambda: toys.Tail(nn.ConvTranspose2d(8, 8, 2, 2, groups=8)), (1, 8, 8)),
    "no_affine": (lambda: toys.Tail(nn.BatchNorm2d(8, affine=False)), (1, 8, 8)),
    "no_statistics": (
        lambda: toys.Tail(nn.BatchNorm2d(8, track_running_stats=False)),
        (1, 8, 8),
    ),
    "one_group": (lambda: toys.Tail(nn.GroupNorm(1, 8)), (1, 8, 8)),
    "groups_of_two": (lambda: toys.Tail(nn.GroupNorm(4, 8)), (1, 8, 8)),
    "instance_norm": (lambda: toys.Tail(nn.InstanceNorm2d(8, affine=True)), (1, 8, 8)),
    "layer_norm": (lambda: toys.Tail(toys.ChannelsLast(nn.LayerNorm(8))), (1, 8, 8)),
    "rms_norm": (lambda: toys.Tail(toys.ChannelsLast(nn.RMSNorm(8))), (1, 8, 8)),
    "grouped": (lambda: toys.Tail(nn.Conv2d(8, 8, 3, padding=1, groups=4)), (1, 8, 8)),
    "grouped_wider": (lambda: toys.Tail(nn.Conv2d(8, 16, 3, groups=4), after=16), (1, 8, 8)),
    "grouped_up": (lambda: toys.Tail(nn.ConvTranspose2d(8, 4, 2, groups=2), after=4), (1, 8, 8)),
    "gated": (toys.Gated, (1, 8, 8)),
    "attention": (Attention, (1, 8, 8)),
    "ends_with_softmax": (lambda: nn.Sequential(toys.Flat(), nn.Softmax(1)), (1, 8, 8)),
}
QUICK = {
    "torchvision:resnet18": (3, 32, 32),
    "torchvision:mobilenet_v3_small": (3, 32, 32),
    "timm:vit_tiny_patch16_224": (3, 64, 64),
}
SLOW = {
    "torchvision:vgg11_bn": (3, 32, 32),
    "torchvision:densenet121": (3, 32, 32),
    "torchvision:efficientnet_b0": (3, 32, 32),
    "torchvision:convnext_tiny": (3, 32, 32),
    "torchvision:googlenet": (3, 64, 64),
    "torchvision:vit_b_16": (3, 64, 64),
    "torchvision:swin_t": (3, 64, 64),
    "torchvision:squeezenet1_1": (3, 64, 64),
    "torchvision:resnext50_32x4d": (3, 32, 32),
    "timm:convnext_atto": (3, 64, 64),
    "monai:DenseNet121": (1, 32, 32),
}


def _family(source: str, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    spec = ModelSpec(source=source, outputs=3, channels=shape[0], spatial=shape[1:])
    return lambda: build(spec)


FAMILIES = [
    *(pytest.param(make, shape, id=name) for name, (make, shape) in TOYS.items()),
    *(pytest.param(_family(s, shape), shape, id=s) for s, shape in QUICK.items()),
    *(
        pytest.param(_family(s, shape), shape, id=s, marks=pytest.mark.slow)
        for s, shape in SLOW.items()
    ),
]


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return logits(model(images))


@pytest.mark.parametrize(("make", "shape"), FAMILIES)
def test_removed_equals_masked_at_the_predicted_cost(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = toys.randomise(make())
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    groups = find_groups(model, images).groups
    plan = finish(model, toys.random_widths(groups), images, {})
    assert plan.units_kept < 0.95

    removed, masked = apply(model, plan), apply(model, plan, masks=True)
    before, expected, found = (_outputs(m, images) for m in (model, masked, removed))
    assert (found - expected).abs().max() <= 1e-4
    assert (expected - before).abs().max() > 1e-4, "the cut must show for the test to mean anything"
    assert measure(removed, images) == plan.after
    assert measure(model, images) == plan.before

    images = images.double()
    expected, found = (_outputs(m.double(), images) for m in (masked, removed))
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize(
    "name", ["unet", "dense", "squeeze_excite", "flatten", "attention", "grouped_up", "gated"]
)
def test_cuts_in_steps_equal_one_cut(name: str) -> None:
    make, shape = TOYS[name]
    model = toys.randomise(make())
    images = torch.randn(2, *shape)
    groups = find_groups(model, images).groups
    last = finish(model, toys.random_widths(groups), images, {})
    halfway = []
    for group in last.groups:
        back = group.removed[: len(group.removed) // 2]
        halfway.append(group.planned([*group.keep, *back]))

    stepwise = apply(model, finish(model, halfway, images, {}))
    narrow(stepwise, last.groups, halfway)
    at_once = apply(model, last)
    assert stepwise.state_dict().keys() == at_once.state_dict().keys()
    for key, value in at_once.state_dict().items():
        assert torch.equal(stepwise.state_dict()[key], value), key
    assert torch.equal(_outputs(stepwise, images), _outputs(at_once, images))
