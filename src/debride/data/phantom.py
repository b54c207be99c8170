"""Drawn radiographs: a data set that needs no file, with the place of every lesion known.

Nothing here is anatomy. It is what makes a radiograph hard for a network: a body in some pose,
overlapping structures (ribs, spine, heart, vessels), unknown gain and contrast, and noise; and
two kinds of lesion that differ in shape and texture, not in place, size or brightness.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from debride.data.images import Array, ImageSource, Record
from debride.data.registry import OpenOptions, register_source
from debride.errors import DebrideError

CLASSES = ("infiltrate", "nodule", "normal")
DEFAULT_IMAGES = 2400
_SMALLEST = 30
_SIDE = 64
_SHARES = (("train", 0.7), ("val", 0.15), ("test", 0.15))
_CHUNK = 256


@register_source("phantom")
def open_phantom(rest: str, options: OpenOptions) -> ImageSource:
    """Draw the data set ``phantom`` or ``phantom:N`` (N images in all: 70, 15 and 15 %)."""
    if rest and not rest.isdecimal():
        raise DebrideError(f"'phantom:{rest}' is not a phantom: write 'phantom:N', N images in all")
    count = int(rest) if rest else DEFAULT_IMAGES
    if count < _SMALLEST:
        raise DebrideError(
            f"a phantom needs at least {_SMALLEST} images, and {count} were asked for"
        )
    images, labels, masks = draw(count, seed=options.seed)
    splits: dict[str, tuple[Record, ...]] = {}
    # Labels go round and round, so any stretch of images is balanced.
    start = 0
    for split, share in _SHARES:
        stop = count if split == "test" else start + round(share * count)
        splits[split] = tuple(
            Record(image=place, label=int(labels[place]), name=f"#{place}", mask=place)
            for place in range(start, stop)
        )
        start = stop
    return ImageSource(
        name=f"phantom:{count}",
        classes=CLASSES,
        multilabel=False,
        splits=splits,
        channels=1,
        spatial=(_SIDE, _SIDE),
        notes=("These are drawn images with drawn lesions: no patient, no clinical meaning.",),
        _images=(images,),
        _masks=(masks,),
    )


def draw(count: int, *, side: int = _SIDE, seed: int = 0) -> tuple[Array, Array, Array]:
    """Draw radiographs with their labels and lesion masks.

    Returns
    -------
    tuple
        Images (count, side, side) uint8, labels (count,) int64 (0 infiltrate, 1 nodule,
        2 normal, in turn), and masks (count, side, side) uint8 (1 on the lesion).

    Examples
    --------
    >>> images, labels, masks = draw(6, side=32)
    >>> images.shape, labels.tolist(), masks.any(axis=(1, 2)).tolist()
    ((6, 32, 32), [0, 1, 2, 0, 1, 2], [True, True, False, True, True, False])
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    parts = [_draw(chunk, side, generator) for chunk in torch.split(labels, _CHUNK)]
    images = torch.cat([image for image, _ in parts]).numpy()
    masks = torch.cat([mask for _, mask in parts]).numpy()
    return images, labels.numpy().astype(np.int64), masks


def _draw(labels: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    count = len(labels)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    def noise(cells: int) -> Tensor:
        """Smooth noise, standard normal, with `cells` bumps across the image."""
        grid = torch.randn(count, 1, cells, cells, generator=generator)
        field = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)[:, 0]
        return field / field.std(dim=(1, 2), keepdim=True)

    # The pose: image coordinates to body coordinates.
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    rows, columns = axis[:, None].expand(side, side), axis[None, :].expand(side, side)
    angle, scale = between(-0.2, 0.2), between(0.9, 1.2)
    right, down = columns - between(-0.12, 0.12), rows - between(-0.12, 0.12)
    x = (right * angle.cos() + down * angle.sin()) * scale
    y = (down * angle.cos() - right * angle.sin()) * scale

    def blob(cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor, edge: float) -> Tensor:
        """One inside an ellipse, zero outside, `edge` wide in between."""
        distance = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2).clamp_min(1e-6).sqrt()
        return torch.sigmoid((1 - distance) / edge)

    zero = torch.zeros(count, 1, 1)
    body = blob(zero, between(0.0, 0.2), between(0.85, 1.0), between(1.1, 1.3), 0.05)
    lung_x, lung_y = between(0.36, 0.46), between(-0.12, 0.05)
    lung_rx, lung_ry = between(0.26, 0.34), between(0.55, 0.7)
    lungs = blob(-lung_x, lung_y, lung_rx, lung_ry, 0.07) + blob(
        lung_x, lung_y, lung_rx * between(0.85, 1.0), lung_ry, 0.07
    )
    image = 0.62 * body - 0.34 * lungs
    image = image + 0.16 * blob(
        between(0.05, 0.2), between(0.15, 0.4), between(0.22, 0.34), between(0.26, 0.36), 0.12
    )
    image = image + 0.10 * torch.exp(-((x / 0.09) ** 2)) * body * (
        1 + 0.25 * torch.sin(24 * y + between(0, 6))
    )
    ribs = torch.sin(between(13, 18) * (y + between(0.15, 0.5) * x**2) + between(0, 6.28))
    image = image + between(0.05, 0.10) * ribs.clamp_min(0) ** 2 * body * (
        1 - torch.exp(-((x / 0.2) ** 2))
    )
    for _ in range(4):  # vessels: thin and straight, in every class
        turn, offset = between(0, math.pi), between(-0.4, 0.4)
        across = x * turn.cos() + y * turn.sin() - offset
        along = y * turn.cos() - x * turn.sin() - between(-0.4, 0.4)
        image = image + between(0.03, 0.08) * lungs * torch.exp(
            -((across / 0.03) ** 2) - (along / 0.25) ** 2
        )
    image = image + 0.035 * noise(5) + 0.015 * noise(12)

    # A lesion in either lung: smooth and round, or ragged and mottled, of equal mean brightness.
    side_of_body = torch.where(between(0, 1) < 0.5, -1.0, 1.0)
    cx = side_of_body * lung_x + between(-0.5, 0.5) * lung_rx
    cy = lung_y + between(-0.62, 0.62) * lung_ry
    radius = between(0.15, 0.21)
    strength = between(0.4, 0.55)
    nodule = blob(cx, cy, radius, radius, 0.1)
    patch = blob(cx, cy, 1.5 * radius * between(0.8, 1.2), 1.5 * radius * between(0.8, 1.2), 0.16)
    ragged = patch * torch.sigmoid(6 * (noise(side // 3) - 0.1))
    shape = torch.where((labels == 0)[:, None, None], ragged, nodule)
    present = (labels != 2)[:, None, None]
    image = image + present * strength * shape
    mask = present * (shape > 0.4)

    # The exposure: contrast, gain, offset, then the detector's noise.
    image = image.clamp_min(0) ** between(0.75, 1.35)
    image = between(0.7, 1.15) * image + between(0.0, 0.15)
    image = image + between(0.015, 0.035) * torch.randn(count, side, side, generator=generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8), mask.to(torch.uint8)
