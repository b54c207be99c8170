"""Networks of the user's own package: ``package.module:function``, run only when trusted."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from torch import nn

from debride.errors import DebrideError
from debride.models.registry import register_model_source
from debride.models.spec import ModelSpec

_OUTPUTS = ("outputs", "num_classes", "n_classes", "classes", "out_channels")
_CHANNELS = ("channels", "in_channels", "in_chans", "n_input_channels", "input_channels")
_SPATIAL = ("spatial", "img_size", "image_size")


@register_model_source("package")
def build_package(name: str, spec: ModelSpec) -> nn.Module:
    """Call ``package.module:function`` with what its signature asks for.

    The number of outputs goes to the first parameter called ``outputs``, ``num_classes``,
    ``n_classes``, ``classes`` or ``out_channels``; channels and image size likewise.
    The folder that one stands in is searched too.
    """
    path, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        factory = _find(path, attribute)
        model = factory(**arguments_for(factory, spec))
    except DebrideError:
        raise
    except Exception as error:
        raise DebrideError(f"calling {name} failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise DebrideError(f"{name} returns {type(model).__name__}, not a torch.nn.Module")
    return model


def arguments_for(factory: Any, spec: ModelSpec) -> dict[str, Any]:
    """Give the keyword arguments that a factory takes, out of what the spec knows."""
    return {**fitted(inspect.signature(factory).parameters, spec), **spec.options}


def fitted(parameters: Any, spec: ModelSpec) -> dict[str, Any]:
    """Match outputs, channels and image size with parameter names in common use."""
    found: dict[str, Any] = {}
    values = ((_OUTPUTS, spec.outputs), (_CHANNELS, spec.channels), (_SPATIAL, spec.spatial))
    for names, value in values:
        name = next((name for name in names if name in parameters), None)
        if name is not None:
            found[name] = value
    return found


def _find(path: str, attribute: str) -> Any:
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise DebrideError(
            f"cannot import '{path}': {error}; install the package or start from its folder"
        ) from error
    factory: Any = module
    for part in attribute.split("."):
        factory = getattr(factory, part, None)
    if not callable(factory):
        raise DebrideError(f"'{path}' has no function or class '{attribute}'")
    return factory
