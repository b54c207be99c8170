import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from debride.errors import DebrideError
from debride.evidence.explanations import heatmaps, spearman, summarise, top_overlap


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("shape", [(4, 16, 16), (3, 5, 6, 7)])
def test_spearman_is_that_of_scipy(shape, rounded):
    first = maps(*shape)
    second = first + maps(*shape, seed=1)
    if rounded:  # many ties
        first, second = first.mul(2).round(), second.mul(2).round()
    expected = [
        spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic
        for a, b in zip(first, second, strict=True)
    ]
    assert spearman(first, second).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_spearman_only_looks_at_order():
    first = maps(2, 8, 8)
    assert spearman(first, first.exp()).tolist() == pytest.approx([1, 1])
    assert spearman(first, -first).tolist() == pytest.approx([-1, -1])


def test_a_constant_map_has_no_correlation_and_is_counted():
    first = maps(3, 8, 8)
    second = first.clone()
    second[1] = 4.0
    correlations = spearman(first, second)
    assert correlations.isnan().tolist() == [False, True, False]
    summary = summarise(correlations, top_overlap(first, second), method="lrp", rules="epsilon")
    assert summary is not None
    assert (summary["images"], summary["undefined"]) == (2, 1)
    assert summary["spearman"]["mean"] == pytest.approx(1)
    assert summarise(correlations[1:2], correlations[1:2], method="lrp", rules="epsilon") is None


def test_overlap_on_constructed_maps():
    first = torch.arange(100.0).reshape(1, 10, 10)
    # the top ten of the first are 90…99; move three of them to the bottom
    second = first.clone()
    second.view(-1)[90:93] = -1
    assert top_overlap(first, second).item() == pytest.approx(0.7)
    assert top_overlap(first, second, share=0.5).item() == pytest.approx(47 / 50)


def test_heatmaps_sum_over_channels_whatever_the_batch_size():
    images = maps(5, 3, 4, 4)
    seen: list[int] = []

    def explain(model, some, targets):
        seen.append(len(some))
        return some * targets[:, None, None, None]

    targets = torch.arange(5)
    found = heatmaps(torch.nn.Identity(), images, targets, explain, batch_size=2)
    assert seen == [2, 2, 1]
    assert torch.allclose(found, images.sum(1) * targets[:, None, None])


def test_an_explainer_of_the_wrong_shape_is_named():
    with pytest.raises(DebrideError, match=r"shape \(1, 4, 4\) where the images have"):
        heatmaps(torch.nn.Identity(), maps(1, 3, 4, 4), torch.zeros(1), lambda m, x, t: x.sum(1))
