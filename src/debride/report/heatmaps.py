"""Relevance as a picture: orange speaks for the class, blue against it, over the grey image."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

FOR = (255, 128, 14)
AGAINST = (36, 132, 255)
"""Told apart with every common kind of colour blindness, and on black as on white."""
LARGEST = 192
"""Pixels a side: three pictures stand side by side, and twelve rows must stay under 6 MB."""

Floats = npt.NDArray[np.float32]


def overlay(image: npt.NDArray[np.uint8], relevance: Floats) -> npt.NDArray[np.uint8]:
    """Lay relevance over the image it explains.

    Colour strength is relevance over the map's own 99th percentile of |relevance|, so that
    one outlier does not hide the rest; zero leaves the grey image as it is.

    Parameters
    ----------
    image
        (H, W) or (H, W, 3).
    relevance
        (H, W).

    Returns
    -------
    ndarray
        (H, W, 3).

    Examples
    --------
    >>> relevance = np.array([[1.0, 0.0, -1.0]], dtype=np.float32)
    >>> overlay(np.full((1, 3), 100, np.uint8), relevance)[0, 1]
    array([80, 80, 80], dtype=uint8)
    """
    luminance = image @ np.array([0.299, 0.587, 0.114]) if image.ndim == 3 else image
    # a little darker, so that colours stand out on white films and bright smears too
    grey = np.repeat(luminance[..., None].astype(np.float32) * 0.8, 3, axis=2)
    finite = np.nan_to_num(relevance)
    scale = float(np.quantile(np.abs(finite), 0.99)) or float(np.abs(finite).max()) or 1.0
    strength = np.clip(np.abs(finite) / scale, 0, 1)[..., None] * 0.95
    colour = np.where((finite > 0)[..., None], np.array(FOR), np.array(AGAINST))
    mixed: npt.NDArray[np.uint8] = np.rint(grey * (1 - strength) + colour * strength).astype(
        np.uint8
    )
    return mixed


def outlined(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Draw the border of a mask: white inside of it, black outside, to be seen on any ground.

    Parameters
    ----------
    pixels
        (H, W, 3).
    mask
        (H, W), not zero inside.

    Examples
    --------
    >>> mask = np.zeros((5, 5), np.uint8)
    >>> mask[1:4, 1:4] = 1
    >>> outlined(np.full((5, 5, 3), 9, np.uint8), mask)[2, :, 0]
    array([  0, 255,   9, 255,   0], dtype=uint8)
    """
    inside = mask != 0
    drawn = pixels.copy()
    drawn[inside & _near(~inside)] = 255
    drawn[~inside & _near(inside)] = 0
    return drawn


def _near(some: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark the pixels that touch one of some, above, below or beside."""
    around = np.pad(some, 1)
    near: npt.NDArray[np.bool_] = (
        around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    )
    return near


def as_png(pixels: npt.NDArray[np.uint8]) -> str:
    """Give a PNG as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def shrunk(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Average an image (H, W[, 3]) or map (H, W) down to `LARGEST` pixels a side.

    Examples
    --------
    >>> shrunk(np.zeros((400, 200), np.float32)).shape
    (192, 96)
    """
    height, width = array.shape[:2]
    factor = LARGEST / max(height, width)
    if factor >= 1:
        return array
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))
