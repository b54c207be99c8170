"""Common vision networks with random weights, by family, for coverage tables and tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from monai.networks import nets
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Entry:
    """One network: where it comes from, how to make it, the shape of an image."""

    family: str
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    segments: bool = False

    @property
    def target(self) -> int | Callable[[Any], Tensor]:
        """Class 1, or for a segmentation the sum of its map."""
        return _class_map if self.segments else 1

    def prepared(self, seed: int = 0) -> nn.Module:
        """Return the network with norms and heads that are not at their initial values."""
        torch.manual_seed(seed)
        model = self.make()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("bias") and not parameter.any():
                    parameter.normal_(std=0.02)  # heads and gains of residuals that start at zero
        return model.eval()

    def images(self, count: int = 1, seed: int = 0) -> Tensor:
        """Return random images."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, *self.shape, generator=generator)


def _class_map(output: Any) -> Tensor:
    if isinstance(output, dict):
        output = output["out"]
    while isinstance(output, list | tuple):
        output = output[0]
    if output.ndim > 4 and output.shape[1] == 1:  # deep supervision stacks its heads
        output = output[:, 0]
    return output[:, 1].flatten(1).sum(1)


def _torchvision() -> list[Entry]:
    sizes = {"inception_v3": 96, "vit_b_16": 224, "maxvit_t": 224}
    names = (
        "resnet18 resnet50 resnext50_32x4d vgg16 vgg19 vgg16_bn vgg19_bn densenet121 "
        "inception_v3 googlenet efficientnet_b0 efficientnet_v2_s mobilenet_v2 mobilenet_v3_large "
        "regnet_y_400mf convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t"
    ).split()

    def make(name: str) -> Callable[[], nn.Module]:
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return lambda: torchvision.models.get_model(name, weights=None, num_classes=10, **extra)

    return [Entry("torchvision", n, make(n), (3, *[sizes.get(n, 64)] * 2)) for n in names]


def _timm() -> list[Entry]:
    names = (
        "vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 convnext_atto "
        "mobilevit_xxs coatnet_nano_rw_224 efficientformer_l1"
    ).split()

    def make(name: str) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, num_classes=10)

    return [Entry("timm", name, make(name), (3, 224, 224)) for name in names]


def _monai() -> list[Entry]:
    found = []
    for dims in (2, 3):
        size = (64, 64) if dims == 2 else (32, 32, 32)
        classifiers: dict[str, Callable[[int], nn.Module]] = {
            "DenseNet121": lambda d: nets.DenseNet121(d, 1, 3),
            "SEResNet50": lambda d: nets.SEResNet50(spatial_dims=d, in_channels=1, num_classes=3),
            "EfficientNetBN": lambda d: nets.EfficientNetBN(
                "efficientnet-b0", pretrained=False, spatial_dims=d, in_channels=1, num_classes=3
            ),
            "ViT": lambda d: nets.ViT(
                1, (32,) * d, (8,) * d, hidden_size=48, mlp_dim=96, num_layers=3, num_heads=4,
                classification=True, num_classes=3, spatial_dims=d,
            ),
        }  # fmt: skip
        segmenters: dict[str, Callable[[int], nn.Module]] = {
            "UNet": lambda d: nets.UNet(d, 1, 2, (8, 16, 32), (2, 2), num_res_units=2),
            "BasicUNet": lambda d: nets.BasicUNet(d, 1, 2, (8, 8, 16, 32, 32, 8)),
            "AttentionUnet": lambda d: nets.AttentionUnet(d, 1, 2, (8, 16, 32), (2, 2)),
            "SegResNet": lambda d: nets.SegResNet(d, 8, 1, 2),
            "DynUNet": lambda d: nets.DynUNet(
                d, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], res_block=True
            ),
            "VNet": lambda d: nets.VNet(d, 1, 2),
            "UNETR": lambda d: nets.UNETR(
                1, 2, (32,) * d, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4,
                spatial_dims=d,
            ),
            "SwinUNETR": lambda d: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=d),
        }  # fmt: skip
        for name, make in (classifiers | segmenters).items():
            sizes = {"ViT": 32, "UNETR": 32, "SwinUNETR": 64}
            shape = (sizes.get(name, size[0]),) * dims
            found.append(
                Entry(
                    f"MONAI {dims}-D", name, lambda m=make, d=dims: m(d), (1, *shape),
                    segments=name in segmenters,
                )
            )  # fmt: skip
    return found


def _others() -> list[Entry]:
    """Return what shows operators that the first list has not."""
    classifiers = (
        "alexnet squeezenet1_1 shufflenet_v2_x1_0 mnasnet1_0 regnet_x_400mf wide_resnet50_2"
    )
    segmenters = "deeplabv3_resnet50 fcn_resnet50 lraspp_mobilenet_v3_large"
    sizes = {
        **dict.fromkeys(
            "resnest14d res2net50_26w_4s nf_resnet50 ghostnet_100 repvgg_a0 hrnet_w18_small dla34 "
            "xception41 mobilenetv4_conv_small convmixer_768_32 edgenext_xx_small pvt_v2_b0 "
            "convnextv2_atto gcresnet33ts mambaout_femto starnet_s1 cspresnet50 "
            "regnetz_b16".split(), 64,
        ),
        **dict.fromkeys("poolformer_s12 inception_resnet_v2".split(), 96),
        **dict.fromkeys("fastvit_t8 vit_small_patch16_dinov3 lambda_resnet26t".split(), 128),
        **dict.fromkeys(
            "efficientvit_b0 resmlp_12_224 gmlp_ti16_224 levit_128s tnt_s_patch16_224 "
            "eva02_tiny_patch14_224 crossvit_tiny_240".split(), 224,
        ),
        "crossvit_tiny_240": 240,
    }  # fmt: skip
    found = []
    for name in classifiers.split():
        make = partial(torchvision.models.get_model, name, weights=None, num_classes=10)
        found.append(Entry("torchvision, others", name, make, (3, 64, 64)))
    for name in segmenters.split():
        make = partial(
            torchvision.models.get_model, name, weights=None, weights_backbone=None, num_classes=3
        )
        found.append(Entry("torchvision, others", name, make, (3, 64, 64), segments=True))
    for name, size in sizes.items():
        make = partial(timm.create_model, name, num_classes=10)
        found.append(Entry("timm, others", name, make, (3, size, size)))
    volume = (32, 32, 32)
    medical: dict[str, tuple[Callable[[], nn.Module], bool]] = {
        "ResNet10": (
            lambda: nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=3), False
        ),
        "Regressor": (lambda: nets.Regressor((1, *volume), (2,), (8, 16, 32), (2, 2, 2)), False),
        "SegResNetDS": (lambda: nets.SegResNetDS(3, 8, 1, 2, blocks_down=(1, 1, 1)), True),
        "BasicUNetPlusPlus": (
            lambda: nets.BasicUNetPlusPlus(3, 1, 2, features=(8, 8, 16, 32, 32, 8)), True
        ),
        "FlexibleUNet": (lambda: nets.FlexibleUNet(1, 2, "efficientnet-b0", spatial_dims=2), True),
        "HighResNet": (lambda: nets.HighResNet(2, 1, 3), True),
    }  # fmt: skip
    for name, (make, segments) in medical.items():
        shape = {"FlexibleUNet": (1, 64, 64), "HighResNet": (1, 32, 32)}.get(name, (1, *volume))
        found.append(Entry("MONAI, others", name, make, shape, segments))
    return found


def _huggingface() -> list[Entry]:
    if importlib.util.find_spec("transformers") is None:
        return []
    import transformers as hf

    def vit() -> nn.Module:
        config = hf.ViTConfig(
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
            image_size=64, num_labels=10,
        )  # fmt: skip
        return hf.ViTForImageClassification(config)

    def swin() -> nn.Module:
        return hf.SwinForImageClassification(hf.SwinConfig(num_labels=10))

    return [
        Entry("Hugging Face", "ViT", vit, (3, 64, 64)),
        Entry("Hugging Face", "Swin", swin, (3, 224, 224)),
    ]


def networks() -> list[Entry]:
    """Return every network of the coverage tables."""
    return [*_torchvision(), *_timm(), *_monai(), *_huggingface(), *_others()]
