import numpy as np
import pytest
import torch

from debride.evidence.explanations import top_overlap
from debride.evidence.likeness import (
    MEASURES,
    centre_shift,
    compare,
    cosine,
    quantiles,
    ssim,
    top_iou,
)


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_ssim(a: np.ndarray, b: np.ndarray, side: int) -> float:
    """Wang et al. 2004, one window after the other."""
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    values = []
    for corner in np.ndindex(*(n - side + 1 for n in a.shape)):
        window = tuple(slice(begin, begin + side) for begin in corner)
        x, y = a[window].ravel(), b[window].ravel()
        cov = np.cov(x, y)
        values.append(
            (2 * x.mean() * y.mean() + c1)
            * (2 * cov[0, 1] + c2)
            / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2))
        )
    return float(np.mean(values))


def slow_shift(a: np.ndarray, b: np.ndarray) -> float:
    centres = []
    for each in (a, b):
        total, centre = 0.0, np.zeros(each.ndim)
        for place in np.ndindex(*each.shape):
            total += abs(each[place])
            centre += abs(each[place]) * np.array(place)
        centres.append(centre / total)
    return float(np.linalg.norm(centres[0] - centres[1]) / np.linalg.norm(a.shape))


@pytest.mark.parametrize(("shape", "side"), [((3, 13, 11), 7), ((2, 7, 8, 9), 7), ((2, 5, 5), 5)])
def test_ssim_is_that_of_a_plain_loop(shape, side):
    first = maps(*shape).double()
    second = first + 0.5 * maps(*shape, seed=1)
    slow = [slow_ssim(a, b, side) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    assert ssim(first, second).numpy() == pytest.approx(np.array(slow), abs=1e-10)


@pytest.mark.parametrize("shape", [(3, 9, 12), (2, 5, 6, 7)])
def test_shift_and_cosine_are_those_of_a_plain_loop(shape):
    first, second = maps(*shape), maps(*shape, seed=1)
    pairs = list(zip(first.double().numpy(), second.double().numpy(), strict=True))
    slow = [slow_shift(a, b) for a, b in pairs]
    assert centre_shift(first, second).numpy() == pytest.approx(np.array(slow), abs=1e-12)
    angles = [(a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) for a, b in pairs]
    assert cosine(first, second).numpy() == pytest.approx(np.array(angles), abs=1e-12)


def test_iou_is_that_of_sets():
    first, second = maps(4, 10, 10), maps(4, 10, 10, seed=1)
    for share in (0.1, 0.5):
        count = round(share * 100)
        slow = []
        for a, b in zip(first, second, strict=True):
            tops = [set(each.flatten().topk(count).indices.tolist()) for each in (a, b)]
            slow.append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
        assert top_iou(first, second, share).tolist() == pytest.approx(slow)
    assert (top_iou(first, second) <= top_overlap(first, second)).all()


def test_equal_maps_are_alike_whatever_their_scale():
    first = maps(3, 16, 16)
    for name, value in compare(first, 3 * first).items():
        wanted = 0.0 if name == "centre_shift" else 1.0
        assert value.tolist() == pytest.approx([wanted] * 3, abs=1e-9), name


def test_opposite_maps_are_unlike():
    first = maps(3, 16, 16)
    found = compare(first, -first)
    assert found["spearman"].tolist() == pytest.approx([-1] * 3)
    assert found["cosine"].tolist() == pytest.approx([-1] * 3)
    assert found["top10_iou"].tolist() == [0] * 3


def test_a_blob_that_moves_gives_the_shift():
    first = torch.zeros(1, 30, 40)
    first[0, 4:8, 5:9] = 1.0
    second = first.roll((6, 8), dims=(1, 2))  # 10 pixels of a diagonal of 50
    assert centre_shift(first, second).item() == pytest.approx(0.2)


def test_a_flat_map_has_no_likeness():
    first = maps(2, 8, 8)
    second = first.clone()
    second[1] = 0.0
    found = compare(first, second)
    assert set(found) == set(MEASURES)
    for value in found.values():
        assert value.isnan().tolist() == [False, True]
    summary = quantiles(found["spearman"])
    assert summary is not None
    assert summary["images"] == 1
    assert quantiles(found["spearman"][1:]) is None


def test_quantiles_are_those_of_numpy():
    values = maps(101).double()
    summary = quantiles(values)
    assert summary is not None
    for name, share in (("q05", 0.05), ("q25", 0.25), ("q50", 0.5), ("q95", 0.95)):
        assert summary[name] == pytest.approx(np.quantile(values.numpy(), share))
