"""Arrays in a ``.npz`` file, in the form of MedMNIST."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from debride.data.images import Array, ImageSource, Record
from debride.data.registry import OpenOptions, register_source
from debride.errors import DebrideError

_SPLITS = ("train", "val", "test")


@register_source(".npz")
def open_npz(path: str, options: OpenOptions) -> ImageSource:
    """Open ``{train,val,test}_images`` and ``_labels``; ``val`` and ``test`` may be missing.

    Images are (N, H, W), (N, H, W, 3), (N, D, H, W) or (N, D, H, W, 3); labels (N,) or (N, 1)
    with class indices, or (N, K) with 0/1 for each of K classes.
    """
    return from_arrays(Path(path).stem, read_arrays(Path(path)))


def read_arrays(path: Path) -> dict[str, Array]:
    """Read the arrays of the splits, without ever unpickling.

    Raises
    ------
    DebrideError
        When the file is not a .npz, is damaged, lacks a key, or would need pickle.
    """
    arrays: dict[str, Array] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DebrideError(f"'{path}' holds a single array: give a .npz in MedMNIST form")
            keys = list(file.files)
            for split in _SPLITS:
                present = [f"{split}_{part}" in keys for part in ("images", "labels")]
                if all(present):
                    for part in ("images", "labels"):
                        arrays[f"{split}_{part}"] = file[f"{split}_{part}"]
                elif any(present) or split == "train":
                    missing = f"{split}_images" if not present[0] else f"{split}_labels"
                    raise DebrideError(
                        f"'{path}' has no array '{missing}' (it has {', '.join(keys) or 'none'}): "
                        "name the arrays as MedMNIST does, train_images, train_labels and so on"
                    )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise DebrideError(
                f"'{path}' holds Python objects that only pickle can read, which is not safe: "
                "save images and labels as plain integer arrays"
            ) from error
        raise DebrideError(f"cannot read '{path}' as a .npz file: {error}") from error
    return arrays


def from_arrays(
    name: str, arrays: dict[str, Array], classes: Sequence[str] | None = None
) -> ImageSource:
    """Make a source of arrays under MedMNIST's names; classes not given are "0", "1", ...

    Raises
    ------
    DebrideError
        When shapes or labels do not fit each other.
    """
    images: list[Array] = []
    splits: dict[str, tuple[Record, ...]] = {}
    first = arrays["train_images"]
    labels = {
        split: _labels(name, split, arrays[f"{split}_labels"])
        for split in _SPLITS
        if f"{split}_labels" in arrays
    }
    multilabel = labels["train"].ndim == 2
    if classes is None:
        train = labels["train"]
        top = train.shape[1] if multilabel else int(train.max(initial=-1)) + 1
        classes = [str(index) for index in range(top)]
    offset = 0
    for split, values in labels.items():
        pixels = _images(name, split, arrays[f"{split}_images"], first)
        if len(pixels) != len(values):
            raise DebrideError(
                f"'{name}' has {len(pixels)} {split}_images and {len(values)} {split}_labels: "
                "there must be one label an image"
            )
        _check_range(name, split, values, labels["train"], len(classes))
        splits[split] = tuple(
            Record(
                image=offset + position,
                label=tuple(value) if isinstance(value, list) else value,
                name=f"#{position}",
            )
            for position, value in enumerate(values.tolist())
        )
        images.append(pixels)
        offset += len(pixels)
    colour = _colour(first)
    return ImageSource(
        name=name,
        classes=tuple(classes),
        multilabel=multilabel,
        splits=splits,
        channels=3 if colour and first.shape[-1] == 3 else 1,
        spatial=first.shape[1:-1] if colour else first.shape[1:],
        _images=tuple(images),
    )


def _colour(images: Array) -> bool:
    # MedMNIST's own convention: volumes are never 1 or 3 voxels deep along the last axis.
    return images.ndim >= 4 and images.shape[-1] in (1, 3)


def _images(name: str, split: str, images: Array, first: Array) -> Array:
    if images.ndim == 4 and images.shape[-1] in (2, 4):
        raise DebrideError(
            f"{split}_images of '{name}' have the shape {images.shape}, which looks like pictures "
            f"with transparency: store images[..., :{images.shape[-1] - 1}] without it"
        )
    dimensions = images.ndim - 1 - _colour(images)
    if dimensions not in (2, 3) or 0 in images.shape[1:]:
        raise DebrideError(
            f"{split}_images of '{name}' have the shape {images.shape}: expected (N, H, W), "
            "(N, H, W, 3), (N, D, H, W) or (N, D, H, W, 3)"
        )
    if images.shape[1:] != first.shape[1:] or images.dtype != first.dtype:
        raise DebrideError(
            f"{split}_images of '{name}' are {images.shape[1:]} {images.dtype} and train_images "
            f"{first.shape[1:]} {first.dtype}: all splits must have the same form"
        )
    if images.dtype.kind == "f":
        low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 1.0)
        if not (low >= 0.0 and high <= 1.0):
            raise DebrideError(
                f"{split}_images of '{name}' run from {low:g} to {high:g}: fractional images "
                "must lie between 0 and 1; or store them as uint8 or uint16"
            )
    elif images.dtype.kind not in "ub":
        raise DebrideError(
            f"{split}_images of '{name}' are {images.dtype}: "
            "store them as uint8, uint16, or as fractions between 0 and 1"
        )
    return images


def _labels(name: str, split: str, labels: Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2):
        raise DebrideError(
            f"{split}_labels of '{name}' have the shape {labels.shape}: "
            "expected (N,), (N, 1) or (N, classes)"
        )
    whole = labels.dtype.kind in "iub" or (
        labels.dtype.kind == "f"
        and bool(np.all(np.isfinite(labels) & (labels == np.round(labels))))
    )
    if not whole:
        raise DebrideError(
            f"{split}_labels of '{name}' are not whole numbers ({labels.dtype}): "
            "give class indices 0, 1, 2, ..."
        )
    return labels.astype(np.int64)


def _check_range(name: str, split: str, values: Array, train: Array, classes: int) -> None:
    if values.ndim != train.ndim or values.shape[1:] != train.shape[1:]:
        raise DebrideError(
            f"{split}_labels of '{name}' have the shape {values.shape} and train_labels "
            f"{train.shape}: all splits must have the same form"
        )
    top = 2 if values.ndim == 2 else classes
    wrong = values[(values < 0) | (values >= top)]
    if wrong.size:
        allowed = "0 or 1, one a class" if values.ndim == 2 else f"between 0 and {classes - 1}"
        if values.ndim != 2 and wrong.flat[0] < 0:
            allowed = "whole numbers that count the classes from 0"
        raise DebrideError(
            f"{split}_labels of '{name}' contain {wrong.flat[0]}: labels must be {allowed}"
        )
    if values.ndim == 2 and values.shape[1] != classes:
        raise DebrideError(
            f"{split}_labels of '{name}' have {values.shape[1]} columns, not {classes}"
        )
