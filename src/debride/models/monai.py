"""Networks of MONAI, in two and three dimensions."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from debride.errors import DebrideError
from debride.models.package import fitted
from debride.models.registry import (
    first_line,
    refuse_options,
    register_model_source,
    unknown_name,
)
from debride.models.spec import ModelSpec


@register_model_source("monai")
def build_monai(name: str, spec: ModelSpec) -> nn.Module:
    """Build a network of ``monai.networks.nets`` without pretrained weights."""
    from monai.networks import nets

    known = {other: getattr(nets, other) for other in dir(nets)}
    known = {other: candidate for other, candidate in known.items() if _is_network(candidate)}
    if name not in known:
        raise unknown_name("monai", name, known)
    refuse_options(spec, ("pretrained", "spatial_dims", "weights", "progress"))
    factory = known[name]
    parameters = _parameters(factory)
    options = fitted(parameters, spec)
    if "spatial_dims" in parameters:
        options["spatial_dims"] = spec.dimensions
    if "in_shape" in parameters:
        options["in_shape"] = (spec.channels, *spec.spatial)
    if "classification" in parameters:
        # MONAI's ViT is an encoder unless told otherwise, and ends in tanh.
        options |= {"classification": True, "post_activation": "none"}
    if "pretrained" in parameters:
        options["pretrained"] = False
    options |= spec.options
    missing = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty and parameter.name not in options
    ]
    if missing:
        raise DebrideError(
            f"monai:{name} needs {', '.join(missing)}: give them as options of the model"
        )
    try:
        model: nn.Module = factory(**options)
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise DebrideError(f"monai:{name} cannot be built so: {first_line(error)}") from error
    return model


def _is_network(candidate: Any) -> bool:
    if inspect.isclass(candidate):
        return issubclass(candidate, nn.Module)
    return inspect.isfunction(candidate) and candidate.__name__.startswith("resnet")


def _parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """Collect named parameters, following **kwargs up to the classes that take them."""
    from monai.networks import nets

    known_here = ("block", "layers", "block_inplanes")
    found: dict[str, inspect.Parameter] = {}
    chain = [factory, *factory.__mro__[1:]] if inspect.isclass(factory) else [factory, nets.ResNet]
    for depth, step in enumerate(chain):
        named = inspect.signature(step).parameters
        for parameter in named.values():
            passed_on = depth > 0 and parameter.default is parameter.empty
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if passed_on and parameter.name in known_here:
                continue
            found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in named.values()):
            break
    return found
