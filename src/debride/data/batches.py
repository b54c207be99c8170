"""The one place that knows what a user's batch may look like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from debride.errors import DebrideError

_IMAGES = ("image", "images")
_LABELS = ("label", "labels")


def unpack(batch: Any) -> tuple[Tensor, Tensor | None]:
    r"""Return the images and, where there are any, the labels of a batch.

    Parameters
    ----------
    batch
        A tensor (B, C, \\*spatial), a tuple or list (images, labels, ...), or a dict with
        ``"image"`` or ``"images"`` and perhaps ``"label"`` or ``"labels"``, as MONAI's loaders
        give. MONAI's MetaTensors become plain tensors.

    Raises
    ------
    DebrideError
        When there are no images in it.

    Examples
    --------
    >>> images, labels = unpack({"image": torch.zeros(2, 1, 8, 8), "label": torch.tensor([0, 1])})
    >>> tuple(images.shape), labels.tolist()
    ((2, 1, 8, 8), [0, 1])
    """
    images: Any = None
    labels: Any = None
    if isinstance(batch, Tensor):
        images = batch
    elif isinstance(batch, Mapping):
        images = next((batch[key] for key in _IMAGES if key in batch), None)
        labels = next((batch[key] for key in _LABELS if key in batch), None)
        if images is None:
            raise DebrideError(
                f"a batch has the keys {', '.join(map(str, batch)) or '(none)'}: "
                "its images must be under 'image' or 'images'"
            )
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and batch:
        images, labels = batch[0], batch[1] if len(batch) > 1 else None
    if not isinstance(images, Tensor):
        raise DebrideError(
            f"a batch is {_kind(batch)}: give tensors (images, labels), "
            "or a dict with 'image' and 'label'"
        )
    if images.ndim < 3:
        raise DebrideError(
            f"a batch of images has the shape {tuple(images.shape)}: "
            "images are expected as (batch, channels, height, width)"
        )
    if labels is not None:
        labels = _plain(labels if isinstance(labels, Tensor) else _tensor(labels))
        if labels.shape[:1] != images.shape[:1]:
            raise DebrideError(
                f"a batch has {images.shape[0]} images and labels of shape {tuple(labels.shape)}: "
                "give one label an image"
            )
    return _plain(images), labels


def check_repeatable(**data: Iterable[Any] | None) -> None:
    """Refuse batches that can be gone through only once, as a generator's can.

    Parameters
    ----------
    data
        What is gone through several times, by the name of its argument; nothing is taken from it.

    Raises
    ------
    DebrideError
        Naming the argument.

    Examples
    --------
    >>> check_repeatable(reference=[torch.zeros(1, 1, 8, 8)])
    >>> check_repeatable(reference=iter([torch.zeros(1, 1, 8, 8)]))
    Traceback (most recent call last):
    ...
    debride.errors.DebrideError: `reference` can be gone through only once ...
    """
    for name, batches in data.items():
        if isinstance(batches, Iterator):
            raise DebrideError(
                f"`{name}` can be gone through only once ({_kind(batches)}): "
                "give a DataLoader or a list of batches"
            )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def _tensor(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DebrideError(
            f"the labels of a batch are {_kind(labels)}: give a tensor of class indices"
        ) from error


def _kind(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        inside = ", ".join(type(each).__name__ for each in value[:3])
        return f"a {type(value).__name__} of ({inside})"
    return f"a {type(value).__name__}"
