"""What the network saw, as a picture that a person can look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor


def picture(image: Tensor) -> npt.NDArray[np.uint8]:
    """Stretch a normalised image to 0…255.

    Parameters
    ----------
    image
        (C, H, W), in whatever units the network takes.

    Returns
    -------
    ndarray
        (H, W, 3) uint8 for three channels that differ, else (H, W) of the first channel.

    Examples
    --------
    >>> import torch
    >>> picture(torch.linspace(-2, 2, 5).reshape(1, 1, 5))
    array([[  0,  64, 128, 191, 255]], dtype=uint8)
    """
    channels = image.detach().float().cpu().numpy()
    grey = len(channels) != 3 or all(np.allclose(_level(c), _level(channels[0])) for c in channels)
    kept = channels[:1] if grey else channels
    low, high = float(kept.min()), float(kept.max())
    scaled = (kept - low) / (high - low if high > low else 1.0)
    pixels: npt.NDArray[np.uint8] = np.rint(scaled * 255).astype(np.uint8)
    return pixels[0] if grey else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def thumbnail(image: Tensor, side: int = 80) -> npt.NDArray[np.uint8]:
    """Give a small picture of an image (C, H, W), or of the middle slice of (C, D, H, W).

    Examples
    --------
    >>> import torch
    >>> thumbnail(torch.zeros(1, 160, 320)).shape
    (40, 80)
    """
    if image.ndim == 4:
        image = image[:, image.shape[1] // 2]
    whole = Image.fromarray(picture(image))
    whole.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(whole)


def shown_slice(heatmap: Tensor) -> int | None:
    """Give the slice of a volume (D, H, W) with the most relevance, None for (H, W)."""
    if heatmap.ndim == 2:
        return None
    return int(heatmap.abs().flatten(1).sum(dim=1).argmax())


def _level(channel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Undo whatever mean and std a channel was normalised with, to see grey as grey."""
    levelled: npt.NDArray[np.float32] = (channel - channel.mean()) / (channel.std() + 1e-6)
    return levelled
