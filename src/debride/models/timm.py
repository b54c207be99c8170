"""Networks of timm (PyTorch Image Models)."""

from __future__ import annotations

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

_RESERVED = (
    "cache_dir",
    "checkpoint_path",
    "img_size",
    "in_chans",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
)


@register_model_source("timm")
def build_timm(name: str, spec: ModelSpec) -> nn.Module:
    """Build a timm network without pretrained weights."""
    import timm

    if not timm.is_model(name):
        raise unknown_name("timm", name, timm.list_models())
    if spec.dimensions != 2:
        raise DebrideError(f"timm:{name} takes 2-D images, the data are {spec.dimensions}-D")
    refuse_options(spec, _RESERVED)
    options: dict[str, Any] = {
        "pretrained": False,
        "num_classes": spec.outputs,
        "in_chans": spec.channels,
        **spec.options,
    }
    usual = timm.get_pretrained_cfg(name)
    resized = usual is None or tuple(usual.input_size[1:]) != spec.spatial
    try:
        if resized:
            try:
                return _create(name, **options, img_size=spec.spatial)
            except TypeError as error:
                # Networks without positions take any size and do not know the argument.
                if "img_size" not in str(error):
                    raise
        return _create(name, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise DebrideError(f"timm:{name} cannot be built so: {first_line(error)}") from error


def _create(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, **options)
    return model
