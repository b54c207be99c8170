"""The networks of benchmarks/compression.yaml that no library has under a name."""

from __future__ import annotations

from torch import nn


def vit_tiny_8(outputs: int, channels: int, spatial: tuple[int, int]) -> nn.Module:
    """Build timm's ViT-tiny with patches of 8 pixels, for small images."""
    import timm

    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=outputs,
        in_chans=channels,
        img_size=spatial,
        patch_size=8,
    )
    return model


def vgg19_bn_512(outputs: int, channels: int) -> nn.Module:
    """Build torchvision's VGG-19 with batch norm and a head of 512 units, for images of 32."""
    from torchvision.models import vgg19_bn

    model: nn.Module = vgg19_bn(num_classes=outputs)
    first = model.features[0]
    model.features[0] = nn.Conv2d(channels, first.out_channels, 3, padding=1)
    model.avgpool = nn.Identity()
    model.classifier = nn.Sequential(
        nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, outputs)
    )
    return model
