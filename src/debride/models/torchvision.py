"""Networks of torchvision: classification of images, and of volumes by its video networks."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from debride.errors import DebrideError
from debride.models.registry import (
    first_line,
    refuse_options,
    register_model_source,
    unknown_name,
)
from debride.models.spec import ModelSpec


@register_model_source("torchvision")
def build_torchvision(name: str, spec: ModelSpec) -> nn.Module:
    """Build a torchvision network without pretrained weights."""
    import torchvision

    planar = torchvision.models.list_models(module=torchvision.models)
    volumetric = torchvision.models.list_models(module=torchvision.models.video)
    if name not in planar and name not in volumetric:
        raise unknown_name("torchvision", name, [*planar, *volumetric])
    wanted = 3 if name in volumetric else 2
    if spec.dimensions != wanted:
        raise DebrideError(
            f"torchvision:{name} takes {wanted}-D images, the data are {spec.dimensions}-D: "
            f"choose {'resnet18' if spec.dimensions == 2 else 'r3d_18'} or another network"
        )
    refuse_options(spec, ("weights", "progress", "num_classes", "image_size"))
    options: dict[str, Any] = {"weights": None, "num_classes": spec.outputs, **spec.options}
    if name in ("inception_v3", "googlenet"):
        # The auxiliary heads serve training only and tie the network to 224 px and more;
        # its truncated-normal initialisation takes a minute.
        options = {"aux_logits": False, "init_weights": False, **options}
    if name.startswith("vit_"):
        options["image_size"] = _square(name, spec)
    if name.startswith("maxvit"):
        options["input_size"] = spec.spatial
    try:
        model: nn.Module = torchvision.models.get_model(name, **options)
    except (TypeError, ValueError) as error:
        raise DebrideError(f"torchvision:{name} cannot be built so: {first_line(error)}") from error
    return fit_channels(model, spec.channels)


def fit_channels(model: nn.Module, channels: int) -> nn.Module:
    """Replace the first convolution where it does not take `channels` channels.

    The new weights repeat the random ones over the channels, at the same output variance.
    """
    for path, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Conv3d):
            continue
        if module.in_channels == channels:
            return model
        old = module
        order = [channel % old.in_channels for channel in range(channels)]
        arguments: dict[str, Any] = {
            name: getattr(old, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        }
        new = type(old)(channels, old.out_channels, bias=old.bias is not None, **arguments)
        scale = math.sqrt(old.in_channels / channels)
        new.weight = nn.Parameter(old.weight.detach()[:, order] * scale)
        new.bias = old.bias
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
        return model
    raise DebrideError(f"{type(model).__name__} has no convolution to fit to {channels} channels")


def _square(name: str, spec: ModelSpec) -> int:
    if len(set(spec.spatial)) != 1:
        size = "x".join(map(str, spec.spatial))
        raise DebrideError(f"torchvision:{name} takes square images only, not {size}")
    return spec.spatial[0]
