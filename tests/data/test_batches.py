from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from debride.data import unpack
from debride.errors import DebrideError

IMAGES, LABELS = torch.rand(2, 3, 8, 8), torch.tensor([1, 0])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS, "names"],
        (IMAGES, [1, 0]),
        {"image": IMAGES, "label": LABELS},
        {"images": IMAGES, "labels": LABELS, "id": [1, 2]},
        {"image": MetaTensor(IMAGES), "label": MetaTensor(LABELS)},
    ],
)
def test_every_form(batch: Any) -> None:
    images, labels = unpack(batch)
    assert type(images) is type(labels) is torch.Tensor
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)  # type: ignore[arg-type]


def test_labels_may_be_missing() -> None:
    assert unpack(IMAGES)[1] is None
    assert unpack((IMAGES,))[1] is None
    assert unpack({"image": IMAGES})[1] is None


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": IMAGES}, "has the keys x"),
        (("a", "b"), r"tuple of \(str, str\)"),
        (3, "a batch is a int"),
        ([], "list"),
        ((torch.rand(2, 3), LABELS), r"shape \(2, 3\)"),
        ((IMAGES, torch.tensor([1])), "2 images and labels of shape"),
        ((IMAGES, "ab"), "the labels of a batch are a str"),
    ],
)
def test_refusals(batch: Any, message: str) -> None:
    with pytest.raises(DebrideError, match=message):
        unpack(batch)
