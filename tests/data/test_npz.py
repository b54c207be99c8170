from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debride.data import open_images
from debride.errors import DebrideError

Arrays = dict[str, np.ndarray]
Write = Callable[[Arrays], Path]


def test_grey_images(arrays: Arrays, npz: Write) -> None:
    source = open_images(npz(arrays))
    assert source.classes == ("0", "1", "2")
    assert (source.channels, source.spatial, source.multilabel) == (1, (10, 14), False)
    assert source.counts("train") == {"0": 4, "1": 4, "2": 4}
    record = source.splits["test"][2]
    assert (record.label, record.name) == (2, "#2")
    np.testing.assert_array_equal(source.pixels(record), arrays["test_images"][2])


@pytest.mark.parametrize(
    ("shape", "channels", "spatial"),
    [
        ((10, 14, 3), 3, (10, 14)),
        ((8, 10, 14), 1, (8, 10, 14)),
        ((8, 10, 14, 3), 3, (8, 10, 14)),
        ((10, 14, 1), 1, (10, 14)),
    ],
)
def test_other_forms(
    arrays: Arrays, npz: Write, shape: tuple[int, ...], channels: int, spatial: tuple[int, ...]
) -> None:
    for split in ("train", "val", "test"):
        count = len(arrays[f"{split}_images"])
        arrays[f"{split}_images"] = np.zeros((count, *shape), dtype=np.uint8)
    source = open_images(npz(arrays))
    assert (source.channels, source.spatial) == (channels, spatial)


def test_several_labels(arrays: Arrays, npz: Write) -> None:
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = np.eye(3, dtype=np.uint8)[arrays[f"{split}_labels"][:, 0]]
        arrays[f"{split}_labels"][0] = (1, 0, 1)
    source = open_images(npz(arrays))
    assert source.multilabel
    assert source.splits["train"][0].label == (1, 0, 1)
    assert source.counts("val") == {"0": 2, "1": 2, "2": 3}


def test_validation_is_taken_where_missing(arrays: Arrays, npz: Write) -> None:
    del arrays["val_images"], arrays["val_labels"]
    source = open_images(npz(arrays), validation=0.25)
    assert source.counts("val") == {"0": 1, "1": 1, "2": 1}
    assert source.counts("train") == {"0": 3, "1": 3, "2": 3}


def without(name: str) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.pop(name)


def put(name: str, value: Any) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays.update({name: np.asarray(value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("train_images", np.zeros((12, 10, 14, 4), np.uint8)), r"images\[\.\.\., :3\]"),
        (without("train_labels"), "no array 'train_labels'"),
        (without("test_images"), "no array 'test_images'"),
        (put("train_labels", [[0.5]] * 12), "not whole numbers"),
        (
            put("train_labels", [[-1]] * 12),
            "contain -1: labels must be whole numbers that count the classes from 0",
        ),
        (put("test_labels", [[3]] * 6), "test_labels .* contain 3: labels must be between 0 and 2"),
        (put("test_labels", [[0], [1], [2]]), "6 test_images and 3 test_labels"),
        (put("train_labels", [[0], [2]] * 6), "class '1' .* no image in the split 'train'"),
        (put("train_images", np.zeros((12, 10), np.uint8)), r"shape \(12, 10\)"),
        (put("test_images", np.zeros((6, 9, 9), np.uint8)), "all splits must have the same form"),
        (put("train_labels", [object()] * 12), "pickle"),
        (put("train_labels", np.zeros((12, 3, 2), int)), r"shape \(12, 3, 2\)"),
    ],
)
def test_refusals(
    arrays: Arrays, npz: Write, change: Callable[[Arrays], Any], message: str
) -> None:
    change(arrays)
    with pytest.raises(DebrideError, match=message):
        open_images(npz(arrays))


def test_fractions_outside_their_range(arrays: Arrays, npz: Write) -> None:
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = arrays[f"{split}_images"].astype(np.float32)
    with pytest.raises(DebrideError, match="must lie between 0 and 1"):
        open_images(npz(arrays))


def test_damaged_file(arrays: Arrays, npz: Write) -> None:
    path = npz(arrays)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DebrideError, match=r"cannot read .*some.npz"):
        open_images(path)
    path.write_text("text")
    with pytest.raises(DebrideError, match=r"some.npz"):
        open_images(path)


def test_one_class_only(arrays: Arrays, npz: Write) -> None:
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"][:] = 0
    with pytest.raises(DebrideError, match="one class only: '0'"):
        open_images(npz(arrays))
