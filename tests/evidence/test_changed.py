import numpy as np
import pytest
import torch

from debride.evidence.changed import LISTED, changed
from debride.evidence.chosen import Surest
from debride.evidence.pictures import thumbnail


def test_the_originals_surest_come_first():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 200)
    labels = rng.integers(0, 2, 200)
    before = np.stack([sure, 1 - sure], axis=1)
    flipped = rng.random(200) < 0.3
    after = np.where(flipped[:, None], before[:, ::-1], before)
    found = changed(before, after, labels, "multiclass", range(1000, 1200))
    expected = sorted(np.flatnonzero(flipped), key=lambda row: -sure[row])[:LISTED]
    assert [image["index"] for image in found["shown"]] == [1000 + row for row in expected]
    assert found["images"] == flipped.sum() > LISTED
    assert found["share"]["value"] == pytest.approx(flipped.mean())
    deviation = np.sqrt(flipped.mean() * (1 - flipped.mean()) / 200)
    assert found["share"]["high"] - found["share"]["low"] == pytest.approx(
        3.92 * deviation, rel=0.1
    )
    for image, row in zip(found["shown"], expected, strict=True):
        assert image["before"] == [0]
        assert image["after"] == [1]
        assert image["before_score"] == sure[row]
        assert image["kind"] == ("lost" if labels[row] == 0 else "gained")


def test_the_surest_images_are_kept_in_one_pass():
    surest = Surest(3)
    for index, score in enumerate([0.2, 0.9, 0.5, 0.9, 0.1, 0.7]):
        surest.offer(index, score, torch.full((1,), float(index)))
    kept = surest.in_turn()
    assert [candidate.index for candidate in kept] == [1, 3, 5]
    assert [candidate.image.item() for candidate in kept] == [1, 3, 5]


def test_pictures_of_volumes_are_of_the_middle_slice():
    volume = torch.zeros(1, 5, 8, 8)
    volume[:, 2, :4] = 1
    assert thumbnail(volume)[:, 0].tolist() == [255] * 4 + [0] * 4
    assert thumbnail(torch.rand(3, 300, 200)).shape == (80, 53, 3)
