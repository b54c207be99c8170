from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits

from debride.data import open_images, phantom
from debride.errors import DebrideError


def test_splits_are_balanced_and_seeded() -> None:
    source = open_images("phantom:60", seed=3)
    assert source.counts("train") == {"infiltrate": 14, "nodule": 14, "normal": 14}
    assert source.counts("test") == {"infiltrate": 3, "nodule": 3, "normal": 3}
    assert source.fingerprint() == open_images("phantom:60", seed=3).fingerprint()
    assert source.fingerprint() != open_images("phantom:60", seed=4).fingerprint()


def test_lesions_are_where_the_masks_say() -> None:
    images, labels, masks = phantom.draw(300)
    area = masks.sum(axis=(1, 2))
    assert (area[labels == 2] == 0).all()
    assert (area[labels != 2] >= 5).all()
    inside = images[masks == 1].mean()
    lungs = images[labels == 2][:, 20:40, 14:22].mean()
    assert inside > lungs + 40
    # Texture: the border of an infiltrate is long for its area, a nodule's is short.
    edges = np.abs(np.diff(masks.astype(int), axis=1)).sum(axis=(1, 2)) / np.sqrt(area.clip(1))
    assert np.median(edges[labels == 0]) > 1.5 * np.median(edges[labels == 1])


def test_linear_model_on_pixels_stays_under_80_percent() -> None:
    images, labels, _ = phantom.draw(1200)
    pixels = images.reshape(len(images), -1) / 255.0
    pixels = (pixels - pixels.mean(axis=0)) / pixels.std(axis=0)
    with threadpool_limits(1):  # many small products: threads would only wait for each other
        model = LogisticRegression(C=1e-3, max_iter=60, tol=1e-2).fit(pixels[:900], labels[:900])
    assert balanced_accuracy_score(labels[900:], model.predict(pixels[900:])) < 0.8
    # It has learnt what there is for it: well above chance where it was trained.
    assert balanced_accuracy_score(labels[:900], model.predict(pixels[:900])) > 0.5


@pytest.mark.parametrize("spec", ["phantom:many", "phantom:-5", "phantom:3"])
def test_refusals(spec: str) -> None:
    with pytest.raises(DebrideError, match="phantom"):
        open_images(spec)
