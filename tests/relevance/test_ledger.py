"""The first test of the pass: the ledger adds up to the explained output, on every kind of net."""

import gc
import weakref

import pytest
import timm
import torch
import torchvision
from monai.networks.nets import SEResNet50, UNet
from torch import nn

from debride.errors import DebrideError
from debride.relevance import attribute

from .networks import Residual, SilentInPlace, Squeeze, Transformer, randomise_norms

SMALL = {
    "residual": Residual,
    "silent in-place": SilentInPlace,
    "squeeze": Squeeze,
    "MultiheadAttention": lambda: Transformer(fused=True),
    "plain attention": lambda: Transformer(fused=False),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Softplus(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3)),
    "instance norm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.PReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(72, 3)),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), nn.Sigmoid(),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten(), nn.Linear(6 * 14 * 14, 3)),
    "same padding": lambda: nn.Sequential(
        nn.Conv2d(3, 8, (3, 4), padding="same"), nn.ELU(), nn.Flatten(), nn.Linear(512, 3)),
}  # fmt: skip
RULES = ("epsilon", "epsilon_plus", "epsilon_plus_flat", "attnlrp")


def small(name: str) -> nn.Module:
    torch.manual_seed(3)
    return randomise_norms(SMALL[name]()).double()


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", SMALL)
def test_shares_sum_to_the_explained_output(name, rules):
    model = small(name)
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    expected = model(images.clone())[:, 1]
    found = attribute(model, images, 1, rules=rules, strict=True)
    assert torch.allclose(found.output, expected, rtol=0, atol=1e-12)
    assert abs(found.delta) < 1e-9
    assert found.input.abs().sum() > 0
    assert not found.unknown


@pytest.mark.parametrize("name", SMALL)
def test_epsilon_loses_nothing(name):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert attribute(small(name), images, 0, rules="epsilon").shares["lost"] == 0


REAL = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=3),
    "vgg11_bn": lambda: torchvision.models.vgg11_bn(num_classes=3),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=3),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=3),
}
REAL_SLOW = {
    "densenet121": lambda: torchvision.models.densenet121(num_classes=3),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=3),
    "convnext_tiny": lambda: torchvision.models.convnext_tiny(num_classes=3),
    "swin_t": lambda: torchvision.models.swin_t(num_classes=3),
    "swin_v2_t": lambda: torchvision.models.swin_v2_t(num_classes=3),
    "googlenet": lambda: torchvision.models.googlenet(
        num_classes=3, aux_logits=False, init_weights=False
    ),
    "vit_b_16": lambda: torchvision.models.vit_b_16(num_classes=3, image_size=64),
    "mobilevit": lambda: timm.create_model("mobilevit_xxs", num_classes=3),
    "SEResNet50": lambda: SEResNet50(spatial_dims=2, in_channels=3, num_classes=3),
}


@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus_flat"])
@pytest.mark.parametrize(
    "name", [*REAL, *(pytest.param(name, marks=pytest.mark.slow) for name in REAL_SLOW)]
)
def test_common_networks_conserve_and_come_back_as_they_were(name, rules):
    torch.manual_seed(0)
    model = randomise_norms((REAL | REAL_SLOW)[name]())
    for module in model.modules():  # torchvision starts its ViT's head at zero
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = attribute(model, images, 1, rules=rules)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not images.requires_grad
    with torch.no_grad():
        expected = model.eval()(images)[:, 1]
    assert (found.output - expected).abs().max() <= 1e-5
    assert abs(found.delta) <= 1e-3 * max(1.0, float(expected.abs().sum()))
    assert torch.isfinite(found.input).all()
    assert not found.unknown


def test_segmentation_network_in_three_dimensions_with_its_own_target():
    torch.manual_seed(0)
    model = UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=1).eval()
    volume = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    found = attribute(model, volume, lambda output: output[:, 1].sum((1, 2, 3)), strict=True)
    assert found.input.shape == volume.shape
    assert abs(found.delta) < 1e-3 * abs(float(found.output))


def test_both_branches_of_an_in_place_residual_receive_relevance():
    model = small("residual")
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    found = attribute(model, images, 0, taps=["bn2", "short"])
    assert found.taps["bn2"].abs().sum() > 0
    assert found.taps["short"].abs().sum() > 0
    head = (found.taps["bn2"] + found.taps["short"]).sum() + found.constants["fc"]
    assert float(head) == pytest.approx(float(found.output.sum()), abs=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_query_key_and_value_receive_relevance(fused):
    torch.manual_seed(0)
    model = Transformer(fused=fused).double().eval()
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    if not fused:
        qkv = attribute(model, images, 0, taps=["qkv"]).taps["qkv"].reshape(5, 3, 12)
        assert (qkv.abs().sum((0, 2)) > 0).all()
    assert abs(attribute(model, images, 0).shares["softmax"]) > 0


def test_fused_attention_equals_the_same_attention_written_out():
    torch.manual_seed(0)
    fused, plain = Transformer(fused=True).double().eval(), Transformer(fused=False).double().eval()
    plain.load_state_dict(
        {k: v for k, v in fused.state_dict().items() if not k.startswith("attention")}
    )
    with torch.no_grad():
        plain.qkv.weight.copy_(fused.attention.in_proj_weight)
        plain.qkv.bias.copy_(fused.attention.in_proj_bias)
        plain.project.weight.copy_(fused.attention.out_proj.weight)
        plain.project.bias.copy_(fused.attention.out_proj.bias)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(
        attribute(fused, images, 2).input, attribute(plain, images, 2).input, atol=1e-12
    )


class Strange(nn.Module):
    """Holds an operator that no rule is written for."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x.flatten(1)).cosh()


def test_an_unknown_operator_is_named_with_its_module_or_raised():
    images = torch.rand(1, 1, 2, 2)
    found = attribute(Strange(), images, 0)
    assert found.unknown == {"cosh": ["Strange"]}
    with pytest.raises(DebrideError, match=r"no relevance rule for 'cosh' \(in module 'Strange'\)"):
        attribute(Strange(), images, 0, strict=True)


def test_nothing_of_a_pass_outlives_it():
    model = small("residual")
    born: list[weakref.ref] = []
    handle = model.bn2.register_forward_hook(lambda _m, _i, out: born.append(weakref.ref(out)))
    gc.disable()
    try:
        for rules in RULES:
            attribute(model, torch.randn(1, 3, 8, 8).double(), 0, rules=rules, taps=["bn2"])
    finally:
        gc.enable()
        handle.remove()
    assert len(born) == len(RULES)
    assert all(reference() is None for reference in born)


def test_the_pass_works_under_no_grad_and_inference_mode_and_with_frozen_weights():
    model = small("residual")
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    expected = attribute(model, images, 0).input
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(attribute(model, images, 0).input, expected)
    with torch.inference_mode():
        assert torch.equal(attribute(model, images, 0).input, expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())
