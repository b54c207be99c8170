"""Localisation against plain loops over the pixels."""

import numpy as np
import pytest
import torch

from debride.evidence.localisation import localisation, scores


def by_hand(heatmap: np.ndarray, mask: np.ndarray) -> list[float]:
    pixels = [(heatmap[place], bool(mask[place])) for place in np.ndindex(heatmap.shape)]
    positive = sum(max(value, 0) for value, _ in pixels)
    mass = sum(max(value, 0) for value, inside in pixels if inside) / positive
    ordered = [inside for _, inside in sorted(pixels, key=lambda pixel: -pixel[0])]
    size = sum(ordered)
    top = round(0.1 * len(ordered))
    return [mass, sum(ordered[:size]) / size, float(ordered[0]), sum(ordered[:top]) / top]


@pytest.mark.parametrize("shape", [(12, 10), (6, 8, 5)])
def test_scores_are_those_of_plain_loops(shape):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(8, *shape))
    masks = rng.random((8, *shape)) < rng.uniform(0.02, 0.6, 8).reshape(-1, *[1] * len(shape))
    found = scores(torch.tensor(maps), torch.tensor(masks))
    for heatmap, mask, row in zip(maps, masks, found, strict=True):
        assert row.tolist() == pytest.approx(by_hand(heatmap, mask))


def test_all_relevance_on_the_lesion_scores_one():
    masks = torch.zeros(1, 10, 10)
    masks[:, 2:6, 3:7] = 1
    assert scores(masks, masks).tolist() == [[1, 1, 1, 1]]
    assert scores(1 - masks, masks).tolist() == [[0, 0, 0, 0]]


def test_masks_that_say_nothing_are_left_out_and_counted():
    masks = torch.zeros(5, 1, 10, 10)
    masks[0, :, :5] = 1
    masks[1] = 1  # all of the frame
    masks[3, :, :2] = 1
    masks[4, :, :2] = 1
    maps = torch.rand(5, 10, 10, generator=torch.Generator().manual_seed(0))
    maps[3] = -1  # nothing speaks for the class
    found = localisation([maps, maps], masks)
    assert found["images"] == 2
    assert (found["too_large"], found["without_mask"], found["undefined"]) == (1, 1, 1)
    assert found["chance"] == pytest.approx((0.5 + 0.2) / 2)
    expected = scores(maps, masks)[[0, 4]].mean(dim=0)
    for key, value in zip(("mass", "rank", "pointing", "top"), expected.tolist(), strict=True):
        assert found[key]["model"]["value"] == pytest.approx(value)
        assert found[key]["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert localisation([maps[:2]], masks[1:3]) is None


def test_each_class_has_a_mass_of_its_own():
    masks = torch.zeros(5, 10, 10)
    masks[:4, :5] = 1
    before = torch.rand(5, 10, 10, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[2:, :5] = 0
    found = localisation([before, after], masks, [0, 0, 1, 1, 2], classes=3)
    kept, lost, without = found["classes"]
    assert (kept["images"], lost["images"], without) == (2, 2, None)
    assert kept["mass"]["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert lost["mass"]["model"]["value"] == 0
    expected = scores(before, masks)[2:4, 0].mean()
    assert lost["mass"]["change"]["value"] == pytest.approx(-expected.item())


def test_the_change_of_each_image_makes_the_interval():
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(40, 10, 10)
    masks[:, :5] = 1
    before = torch.rand(40, 10, 10, generator=generator)
    after = before.clone()
    after[:, :5] *= torch.rand(40, 1, 1, generator=generator)
    found = localisation([before, after], masks)["mass"]["change"]
    each = (scores(after, masks) - scores(before, masks))[:, 0].numpy()
    assert found["value"] == pytest.approx(each.mean())
    width = 3.92 * each.std() / np.sqrt(40)
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.1)
