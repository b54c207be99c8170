"""Drawn radiographs: a data set that needs no file, with the place of every lesion known.

Nothing here is anatomy. It is what makes a radiograph hard for a network: a body in some pose,
overlapping structures (ribs, spine, heart, vessels), unknown gain and contrast, and noise; and
two kinds of lesion that differ in shape and texture, not in place, size or brightness.
"""

from __future__ import annotations

import math

import numpy as np

from debride.data.images import Array, ImageSource, Record
from debride.data.registry import OpenOptions, register_source
from debride.errors import DebrideError

CLASSES = ("infiltrate", "nodule", "normal")
DEFAULT_IMAGES = 2400
_SMALLEST = 30
_SIDE = 64
_SHARES = (("train", 0.7), ("val", 0.15), ("test", 0.15))
_CHUNK = 64  # images drawn at a time: what fits into a processor's cache


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
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    parts = [
        _Drawing(len(chunk), side, rng).finish(chunk)
        for chunk in np.array_split(labels, math.ceil(count / _CHUNK))
    ]
    images = np.concatenate([image for image, _ in parts])
    masks = np.concatenate([mask for _, mask in parts])
    return images, labels, masks


class _Drawing:
    """A stack of radiographs in the making; all lengths are in halves of the image."""

    def __init__(self, count: int, side: int, rng: np.random.Generator) -> None:
        self.count, self.side, self.rng = count, side, rng
        axis = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
        angle, scale = self.between(-0.2, 0.2), self.between(0.9, 1.2)
        right, down = (
            axis[None, :] - self.between(-0.12, 0.12),
            axis[:, None] - self.between(-0.12, 0.12),
        )
        self.x = (right * np.cos(angle) + down * np.sin(angle)) * scale
        self.y = (down * np.cos(angle) - right * np.sin(angle)) * scale

    def between(self, low: float, high: float) -> Array:
        """One random number an image, (count, 1, 1)."""
        return self.rng.uniform(low, high, (self.count, 1, 1)).astype(np.float32)

    def noise(self, cells: int) -> Array:
        """Smooth noise with standard deviation about 1 and `cells` bumps across the image."""
        at = np.arange(self.side)[:, None] / self.side * cells
        weights = np.exp(-((at - np.arange(cells + 1)) ** 2) / 0.5).astype(np.float32)
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        grid = self.rng.standard_normal((self.count, cells + 1, cells + 1), dtype=np.float32)
        field: Array = weights @ grid @ weights.T
        return field

    def blob(self, cx: Array | float, cy: Array, rx: Array, ry: Array, edge: float) -> Array:
        """One inside an ellipse, zero outside, with a border about `edge` radii wide."""
        distance = np.sqrt(((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2)
        return _step((1 - distance) / edge)

    def finish(self, labels: Array) -> tuple[Array, Array]:
        """Draw the body, then the lesion that the label asks for, then expose the film."""
        between = self.between
        lung_x, lung_y = between(0.36, 0.46), between(-0.12, 0.05)
        lung_rx, lung_ry = between(0.26, 0.34), between(0.55, 0.7)
        image = self._body(lung_x, lung_y, lung_rx, lung_ry)

        # Somewhere in a lung: smooth and round, or ragged and mottled.
        left_or_right = np.where(between(0, 1) < 0.5, np.float32(-1), np.float32(1))
        cx = left_or_right * lung_x + between(-0.5, 0.5) * lung_rx
        cy = lung_y + between(-0.62, 0.62) * lung_ry
        radius = between(0.15, 0.21)
        nodule = self.blob(cx, cy, radius, radius, 0.12)
        wide, high = (1.5 * radius * between(0.8, 1.2) for _ in range(2))
        patch = self.blob(cx, cy, wide, high, 0.16) * _step(
            6 * (self.noise(3 * self.side // 8) + 0.1)
        )
        shape = np.where((labels == 0)[:, None, None], patch, nodule)
        shape = shape * (labels != 2)[:, None, None]
        image += between(0.38, 0.52) * shape

        # The exposure: contrast, gain and offset, then the detector's noise.
        image = np.maximum(image, 0) ** between(0.75, 1.35)
        image = between(0.7, 1.15) * image + between(0.0, 0.15)
        grain = self.rng.standard_normal(self.x.shape, dtype=np.float32)
        image += between(0.015, 0.035) * grain
        return (
            (np.clip(image, 0, 1) * 255).round().astype(np.uint8),
            (shape > 0.4).astype(np.uint8),
        )

    def _body(self, lung_x: Array, lung_y: Array, lung_rx: Array, lung_ry: Array) -> Array:
        between, x, y = self.between, self.x, self.y
        body = self.blob(0.0, between(0.0, 0.2), between(0.85, 1.0), between(1.1, 1.3), 0.05)
        lungs = self.blob(-lung_x, lung_y, lung_rx, lung_ry, 0.07)
        lungs += self.blob(lung_x, lung_y, lung_rx * between(0.85, 1.0), lung_ry, 0.07)
        image = 0.62 * body - 0.34 * lungs
        heart = between(0.05, 0.2), between(0.15, 0.4), between(0.22, 0.34), between(0.26, 0.36)
        image += 0.16 * self.blob(*heart, 0.12)
        spine = np.exp(-((x / 0.09) ** 2)) * (1 + 0.25 * np.sin(24 * y + between(0, 6.28)))
        image += 0.10 * spine * body
        ribs = np.sin(between(13, 18) * (y + between(0.15, 0.5) * x**2) + between(0, 6.28))
        ribs = np.maximum(ribs, 0) ** 2 * (1 - np.exp(-((x / 0.2) ** 2)))
        image += between(0.05, 0.10) * ribs * body
        for _ in range(4):  # vessels: thin and straight, in every class
            turn = between(0, math.pi)
            across = x * np.cos(turn) + y * np.sin(turn) - between(-0.4, 0.4)
            along = y * np.cos(turn) - x * np.sin(turn) - between(-0.4, 0.4)
            line = np.exp(-((across / 0.03) ** 2) - (along / 0.25) ** 2)
            image += between(0.03, 0.08) * lungs * line
        image += 0.035 * self.noise(5) + 0.015 * self.noise(12)
        return image


def _step(value: Array) -> Array:
    """From 0 to 1, as a logistic function that cannot overflow."""
    step: Array = 0.5 + 0.5 * np.tanh(0.5 * value)
    return step
