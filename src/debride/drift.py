"""How far the reasons move while a network is cut: heatmaps of a fixed validation sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.evidence.chosen import Reservoir
from debride.evidence.explanations import heatmaps, lrp_explainer, spearman
from debride.evidence.state import frozen
from debride.models.outputs import Task, logits
from debride.relevance.rules import RuleSet

IMAGES = 32
"""Explained images, drawn evenly from the classes."""


class Drift:
    """Compares the heatmaps of cut networks with the original's, for its most likely classes.

    Parameters
    ----------
    original : nn.Module
        The network before any cut.
    data : iterable
        Validation batches with labels.
    task : str
    rules : RuleSet
        LRP's rule set.
    seed : int
        Of the choice of images.
    device : torch.device
    """

    def __init__(
        self,
        original: nn.Module,
        data: Iterable[Any],
        task: Task,
        *,
        rules: RuleSet,
        seed: int,
        device: torch.device,
    ) -> None:
        reservoir = Reservoir(IMAGES, seed)
        index = 0
        for batch in data:
            images, labels = unpack(batch)
            if labels is None:
                raise DebrideError("the validation data have no labels")
            classes = labels.long().argmax(1) if task == "multilabel" else labels.reshape(-1).long()
            for image, stratum in zip(images, classes.tolist(), strict=True):
                reservoir.offer(index, stratum, image)
                index += 1
        chosen = reservoir.in_turn()[:IMAGES]
        self.images = torch.stack([candidate.image for candidate in chosen]).to(device)
        self.explain = lrp_explainer(rules)
        with frozen(original), torch.no_grad():
            outputs = logits(original(self.images))
        single = outputs.shape[1] == 1
        self.targets = (outputs[:, 0] > 0).long() if single else outputs.argmax(1)
        self.before = self._heatmaps(original)

    def __call__(self, model: nn.Module) -> float:
        """Return 1 − the mean rank correlation; a heatmap that went flat counts as unrelated."""
        correlations = spearman(self.before, self._heatmaps(model)).nan_to_num(0.0)
        return 1.0 - float(correlations.mean())

    def _heatmaps(self, model: nn.Module) -> Tensor:
        with frozen(model):
            return heatmaps(model, self.images, self.targets, self.explain)
