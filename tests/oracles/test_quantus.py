"""Quantus's sanity checks of our heatmaps give the numbers that ours give."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from debride.evidence.explanations import spearman
from debride.relevance import attribute

quantus = pytest.importorskip("quantus", reason="the oracle Quantus is in the extra 'oracles'")

IMAGES = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 4 * 4, 3),
    ).eval()  # fmt: skip


def explainer(method, kept, **options):
    """Explain as Quantus asks for it, and keep each map."""

    def explain(model, inputs, targets, **_):
        images, labels = torch.as_tensor(inputs), torch.as_tensor(targets)
        found = attribute(model.eval(), images, labels, method=method, **options).input.detach()
        kept.append(found)
        return found.numpy()

    return explain


def asked(metric, model, explain):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=model, x_batch=IMAGES.numpy(), y_batch=LABELS.numpy(), a_batch=None,
            explain_func=explain, device="cpu", channel_first=True, batch_size=len(IMAGES),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lrp", {"rules": "epsilon"}),
        ("lrp", {"rules": "epsilon_plus_flat"}),
        ("ig", {"n_steps": 8}),
        ("gradient", {}),
    ],
)
def test_parameter_randomisation_from_the_top(method, options):
    """Adebayo et al. 2018: each layer from the top randomised, and the maps correlated."""
    kept: list[torch.Tensor] = []
    metric = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman, layer_order="top_down",
        seed=1, abs=False, normalise=False, disable_warnings=True,
    )  # fmt: skip
    theirs = asked(metric, network(), explainer(method, kept, **options))
    assert list(theirs) == ["original", "6", "2", "0"]
    for layer, maps in zip(theirs.values(), kept[-4:], strict=True):
        ours = spearman(kept[0][:, 0], maps[:, 0]).numpy()
        np.testing.assert_allclose(ours, np.asarray(layer, dtype=float), atol=1e-4)
    last = np.abs(np.asarray(theirs["0"], dtype=float))
    assert last.mean() < 0.5  # a map must be about the weights


def test_rank_correlation():
    first, second = torch.randn(2, 5, 9, 9, generator=torch.Generator().manual_seed(2))
    second[:, :3] = 0.5  # ties
    theirs = [
        quantus.similarity_func.correlation_spearman(a.flatten().numpy(), b.flatten().numpy())
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(spearman(first, second).numpy(), theirs, atol=1e-4)
