"""Images in which nothing is to be seen: where integration starts, what occlusion puts in."""

from __future__ import annotations

import torch
from torch import Tensor

from debride.errors import DebrideError

Baseline = str | float | Tensor
BLUR = 0.1
"""Standard deviation of the blur, in parts of each side."""


def baseline_images(baseline: Baseline, images: Tensor) -> Tensor:
    """Return the baseline of each image, (B, C, *spatial).

    Parameters
    ----------
    baseline : str, float or Tensor
        ``"zero"``: zeros of the prepared image, which after normalisation is the mean of the
        data; ``"mean"``: the mean of each channel of each image; ``"blur"``: the image under a
        Gaussian of a tenth of each side. A number fills every pixel. A tensor is broadcast to the
        images: black in pixel space is ``-mean / std`` of the preparation as (C, 1, 1).
    images : Tensor
        (B, C, *spatial).

    Raises
    ------
    DebrideError
        For another word, or a tensor that does not fit the images.

    Examples
    --------
    >>> baseline_images("mean", torch.tensor([[[1.0, 3.0]]]))
    tensor([[[2., 2.]]])
    """
    if isinstance(baseline, Tensor):
        given = baseline.detach().as_subclass(Tensor).to(images)
        try:
            return given.expand_as(images).clone()
        except RuntimeError as error:
            raise DebrideError(
                f"the baseline has shape {tuple(baseline.shape)} where the images have "
                f"{tuple(images.shape)}: give one that broadcasts, e.g. (C, 1, 1)"
            ) from error
    if isinstance(baseline, int | float):
        return torch.full_like(images, baseline)
    if baseline == "zero":
        return torch.zeros_like(images)
    if baseline == "mean":
        sides = list(range(2, images.ndim))
        return images.mean(sides, keepdim=True).expand_as(images).clone() if sides else images
    if baseline == "blur":
        return _blurred(images)
    raise DebrideError(f"no baseline '{baseline}': known are zero, mean, blur, a number, a tensor")


def _blurred(images: Tensor) -> Tensor:
    """Blur along each side; near a border the weights inside the image are scaled up to 1."""
    for dim in range(2, images.ndim):
        size = images.shape[dim]
        place = torch.arange(size, dtype=torch.float64, device=images.device)
        weights = (-((place[:, None] - place) / (BLUR * size)).square() / 2).softmax(1)
        images = torch.tensordot(images, weights.to(images), ([dim], [1])).movedim(-1, dim)
    return images
