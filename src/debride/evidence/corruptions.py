"""What happens to images in clinics, each at five severities, and how another is added."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from debride.errors import DebrideError

SEVERITIES = 5
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

Apply = Callable[[Tensor, float, torch.Generator], Tensor]
"""(images (B, C, *spatial) within 0 and 1, level, generator) -> the same, changed."""


@dataclass(frozen=True)
class Corruption:
    """One way in which images differ between clinics.

    Attributes
    ----------
    name : str
    levels : tuple of float
        Five, from mild to severe.
    unit : str
        What a level is.
    apply : callable
        Changes a batch; see `Apply`.
    moves : bool
        Whether places move: then heatmaps of clean images are moved alike before they are
        compared.
    volumes : str or None
        Why it makes no sense for volumes; None where it does.
    """

    name: str
    levels: tuple[float, ...]
    unit: str
    apply: Apply
    moves: bool = False
    volumes: str | None = None


_CORRUPTIONS: dict[str, Corruption] = {}


def register_corruption(
    name: str,
    *,
    levels: tuple[float, ...],
    unit: str,
    moves: bool = False,
    volumes: str | None = None,
) -> Callable[[Apply], Apply]:
    """Register a corruption: a function of images within 0 and 1, a level and a generator.

    Parameters
    ----------
    name, levels, unit, moves, volumes
        See `Corruption`. What the function gives is cut off below 0 and above 1.

    Raises
    ------
    DebrideError
        When there are not five levels.

    Examples
    --------
    >>> @register_corruption("negative", levels=(0.2, 0.4, 0.6, 0.8, 1.0), unit="share inverted")
    ... def negative(images, level, generator):
    ...     return images + level * (1 - 2 * images)
    >>> del _CORRUPTIONS["negative"]
    """
    if len(levels) != SEVERITIES:
        raise DebrideError(
            f"the corruption '{name}' has {len(levels)} levels: give {SEVERITIES}, mild to severe"
        )

    def add(apply: Apply) -> Apply:
        _CORRUPTIONS[name] = Corruption(name, levels, unit, apply, moves, volumes)
        return apply

    return add


def corruptions() -> tuple[Corruption, ...]:
    """Return what is registered, in the order of registration."""
    return tuple(_CORRUPTIONS.values())


@register_corruption(
    "noise", levels=(0.02, 0.04, 0.07, 0.11, 0.16), unit="standard deviation, share of the range"
)
def noise(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise, the same in all channels of a grey image."""
    channels = 1 if _grey(images) else images.shape[1]
    shape = (len(images), channels, *images.shape[2:])
    return images + level * torch.randn(shape, generator=generator).to(images.device)


@register_corruption(
    "blur",
    levels=(0.005, 0.01, 0.015, 0.02, 0.03),
    unit="standard deviation, share of the shorter side",
)
def blur(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Blur with a Gaussian: a lens out of focus, a patient who moved."""
    from monai.networks.layers import GaussianFilter

    blurred: Tensor = GaussianFilter(images.ndim - 2, level * min(images.shape[-2:]))(images)
    return blurred


@register_corruption("contrast", levels=(0.8, 0.65, 0.5, 0.4, 0.3), unit="share of it left")
def contrast(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Draw every value towards the image's mean."""
    mean = images.flatten(1).mean(1).reshape(-1, *[1] * (images.ndim - 1))
    return mean + level * (images - mean)


@register_corruption(
    "brightness", levels=(0.05, 0.1, 0.15, 0.2, 0.3), unit="added, share of the range"
)
def brightness(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Make everything brighter, as a longer exposure or another window does."""
    return images + level


@register_corruption(
    "jpeg",
    levels=(60, 40, 25, 15, 8),
    unit="quality of the JPEG file",
    volumes="JPEG files hold flat images",
)
def jpeg(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Write the images as JPEG files, and read them again; a codec takes them one by one."""
    if images.shape[1] not in (1, 3):
        raise DebrideError(f"a JPEG file cannot hold {images.shape[1]} channels: give 1 or 3")
    pixels = (images.clamp(0, 1) * 255).round().byte().cpu()
    arrays = pixels.movedim(1, -1).squeeze(-1).numpy()
    again = np.stack([_as_jpeg(array, int(level)) for array in arrays])
    return (
        torch.from_numpy(again).reshape(pixels.movedim(1, -1).shape).movedim(-1, 1).to(images) / 255
    )


@register_corruption("rotation", levels=(3, 6, 10, 15, 20), unit="degrees", moves=True)
def rotation(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Turn images (of a volume, every slice) about the centre; edges are drawn out.

    The aspect is kept: what turns are pixels, not the unit square.
    """
    flat = images.transpose(1, 2).flatten(0, 1) if images.ndim == 5 else images
    height, width = flat.shape[-2:]
    angle = math.radians(level)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]])
    grid = F.affine_grid(
        turn.to(flat).expand(len(flat), 2, 3), list(flat.shape), align_corners=False
    )
    turned = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    if images.ndim == 5:
        slices = turned.reshape(len(images), images.shape[2], *turned.shape[1:])
        return slices.transpose(1, 2)
    return turned


@register_corruption("resolution", levels=(0.75, 0.6, 0.45, 0.35, 0.25), unit="share of each side")
def resolution(images: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Scale the images down, averaging, and up again."""
    size = images.shape[2:]
    smaller = [max(1, round(level * side)) for side in size]
    return F.interpolate(F.interpolate(images, smaller, mode="area"), size, mode=MODES[len(size)])


def _as_jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _grey(images: Tensor) -> bool:
    return bool((images == images[:, :1]).all())
