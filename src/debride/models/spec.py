"""How a network is built: its description, and the one function that follows it."""

from __future__ import annotations

import difflib
import random
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from debride.errors import DebrideError
from debride.models.registry import model_sources, source_function

CUSTOM = "custom"


class ModelSpec(BaseModel):
    """What it takes to build a network again, weights aside.

    Attributes
    ----------
    source
        ``"torchvision:NAME"``, ``"timm:NAME"``, ``"monai:NAME"`` or ``"package.module:function"``;
        ``"custom"`` for the user's own object, which only the user can build.
    outputs
        Number of logits; 1 is a single sigmoid logit.
    channels
        Channels of the input images.
    spatial
        Size of the input images in pixels or voxels, ``(H, W)`` or ``(D, H, W)``.
    options
        Further keyword arguments of the factory.

    Examples
    --------
    >>> spec = ModelSpec(source="torchvision:resnet18", outputs=2, channels=1, spatial=(64, 64))
    >>> spec.dimensions
    2
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1, max_length=300)
    outputs: int = Field(ge=1, le=1_000_000)
    channels: int = Field(ge=1, le=10_000)
    spatial: tuple[int, ...] = Field(min_length=1, max_length=3)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("spatial")
    @classmethod
    def _positive(cls, spatial: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 < size <= 100_000 for size in spatial):
            raise ValueError(f"every image size must lie between 1 and 100000, not {spatial}")
        return spatial

    @property
    def dimensions(self) -> int:
        """Number of spatial dimensions of the images: 2 or 3."""
        return len(self.spatial)


def build(
    spec: ModelSpec, *, device: str | torch.device = "cpu", trust: bool = False, seed: int = 0
) -> nn.Module:
    """Build the network that `spec` describes, with random weights drawn from `seed`.

    The random state of the caller is as before afterwards. On ``device="meta"`` nothing is
    computed or stored, which is how networks are loaded.

    Parameters
    ----------
    trust
        Allows ``package.module:function`` sources, which run code of that package.

    Raises
    ------
    DebrideError
        For a name that its source does not know (close matches are named), options that the
        network does not take, or a ``package.module:function`` source without `trust`.

    Examples
    --------
    >>> spec = ModelSpec(source="torchvision:resnet18", outputs=2, channels=1, spatial=(64, 64))
    >>> model = build(spec, device="meta")
    >>> tuple(model.conv1.weight.shape), tuple(model.fc.weight.shape)
    ((64, 1, 7, 7), (2, 512))
    """
    device = torch.device(device)
    prefix, colon, name = spec.source.partition(":")
    factory = source_function(prefix)
    if not colon or not name or not prefix:
        raise DebrideError(f"unknown network '{spec.source}': {_how_to_name(spec.source)}")
    if factory is None:
        if not trust:
            near = difflib.get_close_matches(prefix, model_sources(), n=1)
            hint = f"did you mean '{near[0]}:{name}'? Otherwise " if near else ""
            raise DebrideError(
                f"'{spec.source}' would run code of the package '{prefix}': {hint}allow it with "
                "trust=True (--trust), or hand the network over with model="
            )
        factory, name = source_function("package"), spec.source
        assert factory is not None
    if device.type != "meta":
        return _build_seeded(factory, name, spec, seed).to(device)
    try:
        with torch.device("meta"):
            return factory(name, spec)
    except (RuntimeError, NotImplementedError, DebrideError):
        # Some constructors compute with tensor values, which the meta device does not have.
        return _build_seeded(factory, name, spec, seed).to(device)


def _build_seeded(factory: Any, name: str, spec: ModelSpec, seed: int) -> nn.Module:
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            model: nn.Module = factory(name, spec)
            return model
    finally:
        random.setstate(python_state)


def _how_to_name(source: str) -> str:
    prefixes = ", ".join(f"{prefix}:NAME" for prefix in model_sources() if prefix != "package")
    example = "torchvision:resnet18" if ":" in source or not source else f"torchvision:{source}"
    return f"give {prefixes} or package.module:function, for example {example}"
