"""Networks of a cell beside their original, against the same counted by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from debride.comparing.measuring import Measuring
from debride.models.state import undisturbed
from debride.opening import Job, open_job
from debride.relevance import attribute
from debride.relevance.rules import rule_set
from debride.settings.pruning import PruneSettings


@pytest.fixture
def job(base: Path, monkeypatch: Any) -> Job:
    monkeypatch.chdir(base.parent)
    return open_job(PruneSettings(model=str(base), data="toy.npz", out=Path("x"), trust=True))


def test_decisions_and_heatmaps_beside_the_original_s(job: Job) -> None:
    original = job.network.model.eval()
    other = copy.deepcopy(original)
    with torch.no_grad():
        other[-1].weight[0] += 0.05
        other[0].weight.mul_(1 + 0.3 * torch.randn(8, 1, 1, 1, generator=torch.manual_seed(0)))
    images = torch.cat([batch["image"] for batch in job.batches("test")])
    with torch.no_grad(), undisturbed(original):
        first, second = original(images).argmax(1), other(images).argmax(1)
    found = Measuring(job, job.network.rules("epsilon_gamma_box"), seed=0)(other)
    assert found["same_decisions"] == pytest.approx(float((first == second).double().mean()))
    # all 30 test images are explained, for what the original decides
    rules = job.network.rules("epsilon_gamma_box")
    maps = [
        attribute(net, images, first, method="lrp", rules=rules).input.sum(1).flatten(1).numpy()
        for net in (original, other)
    ]
    by_hand = [spearmanr(a, b).statistic for a, b in zip(*maps, strict=True)]
    assert found["heatmaps"] == pytest.approx(float(np.mean(by_hand)), abs=1e-5)
    assert found["heatmaps"] < 0.999


def test_where_lrp_cannot_explain_there_are_no_heatmaps(job: Job) -> None:
    of_three_channels = rule_set("epsilon_gamma_box", low=(0.0,) * 3, high=(1.0,) * 3)
    found = Measuring(job, of_three_channels, seed=0)(job.network.model)
    assert found["heatmaps"] is None
    assert found["same_decisions"] == 1.0
