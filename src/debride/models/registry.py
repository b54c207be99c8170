"""Where networks come from: a table of sources, filled by a decorator."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from torch import nn

from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.models.spec import ModelSpec

ModelSource = Callable[[str, "ModelSpec"], nn.Module]
"""Builds the network of that name, fitted to the outputs, channels and size of the spec."""

_SOURCES: dict[str, ModelSource] = {}
_USUAL = ("resnet18", "resnet50", "efficientnet_b0", "DenseNet121")
_BUILT_IN = ("torchvision", "timm", "monai", "package")


def register_model_source(prefix: str) -> Callable[[ModelSource], ModelSource]:
    """Make ``prefix:NAME`` a network that `build` knows how to make.

    Examples
    --------
    >>> @register_model_source("linear")
    ... def linear(name, spec):
    ...     return nn.Sequential(nn.Flatten(), nn.LazyLinear(spec.outputs))
    >>> "linear" in model_sources()
    True
    >>> del _SOURCES["linear"]
    """

    def register(function: ModelSource) -> ModelSource:
        _SOURCES[prefix] = function
        return function

    return register


def source_function(prefix: str) -> ModelSource | None:
    """Give the source registered under `prefix`, or None."""
    if prefix in _BUILT_IN and prefix not in _SOURCES:
        importlib.import_module(f"debride.models.{prefix}")
    return _SOURCES.get(prefix)


def model_sources() -> tuple[str, ...]:
    """Give the names of all sources, the built-in ones first."""
    return tuple(dict.fromkeys([*_BUILT_IN, *_SOURCES]))


class UnknownNetworkError(DebrideError):
    """A source has no network of that name."""


def unknown_name(source: str, name: str, known: Iterable[str]) -> UnknownNetworkError:
    """Make the error for a name that a source does not know, naming the closest ones."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + ", ".join(f"{source}:{match}" for match in near) + "?"
    else:
        known = sorted(known)
        usual = [each for each in _USUAL if each in known] or known[:3]
        hint = f"it has {len(known)}, such as " + ", ".join(f"{source}:{each}" for each in usual)
    return UnknownNetworkError(f"{source} has no network '{name}': {hint}")


def refuse_options(spec: ModelSpec, reserved: Iterable[str]) -> None:
    """Refuse options that would fetch or read files, or that the spec sets itself."""
    for option in sorted(set(spec.options) & set(reserved)):
        raise DebrideError(
            f"'{option}' is not an option of '{spec.source}' here: outputs, channels and image "
            "size are fitted to the data, and weights come from a checkpoint file (--weights)"
        )


def first_line(error: Exception) -> str:
    """Give the first line of an error's text, for use inside a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]
