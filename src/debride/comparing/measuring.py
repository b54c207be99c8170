"""What is measured of every network of a cell, on the images that results are reported on."""

from __future__ import annotations

import contextlib
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from debride.drift import Drift
from debride.errors import DebrideError
from debride.evidence.task import Performance, compare_decisions, performance
from debride.models.outputs import probable
from debride.models.state import undisturbed
from debride.opening import Job
from debride.relevance.rules import RuleSet


class Measured(TypedDict):
    """A network on the test images, alone and beside the original."""

    test: Performance
    same_decisions: float
    """Share of the images on which it decides as the original does."""
    heatmaps: float | None
    """Mean rank correlation of LRP's heatmaps with the original's, on 32 of the images.

    None where LRP cannot explain the original.
    """


class Measuring:
    """Measures networks beside their original.

    Parameters
    ----------
    job : Job
        The original network and its images.
    rules : RuleSet
        LRP's, for the heatmaps.
    seed : int
        Of the choice of explained images.
    """

    def __init__(self, job: Job, rules: RuleSet, seed: int) -> None:
        self.job, original = job, job.network.model
        batches = job.batches(job.final_split)
        self.labels = torch.cat([batch["label"] for batch in batches]).numpy()
        self.before = self._outcomes(original)
        self.drift: Drift | None = None
        with contextlib.suppress(DebrideError):  # there are networks that LRP cannot explain
            place = job.network.device
            self.drift = Drift(original, batches, job.task, rules=rules, seed=seed, device=place)

    def __call__(self, model: nn.Module) -> Measured:
        """Measure a network, which is left as it is."""
        job, after = self.job, self._outcomes(model)
        decisions, _ = compare_decisions(self.before, after, self.labels, job.task)
        classes = job.source.classes
        return Measured(
            test=performance(after, self.labels, job.task, classes, job.final_split),
            same_decisions=decisions["same"] / len(self.labels),
            heatmaps=None if self.drift is None else 1 - self.drift(model),
        )

    def _outcomes(self, model: nn.Module) -> npt.NDArray[np.float64]:
        job = self.job
        with undisturbed(model):
            model.eval()
            outcomes = [
                probable(model, batch["image"].to(job.network.device), job.task)
                for batch in job.batches(job.final_split)
            ]
        return torch.cat(outcomes).numpy()
