"""Whether a network, on images as they are prepared, is any better than guessing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.evidence.state import frozen
from debride.evidence.task import Performance, decide, performance
from debride.models.outputs import Task, outputs_of, probabilities
from debride.progress import track

Z99 = 2.326
"""One-sided 99 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Check:
    """How a network does on the validation images, against guessing.

    Attributes
    ----------
    measured
        Accuracy, balanced accuracy, ROC AUC and recalls.
    score, chance, needed
        Balanced accuracy (mean ROC AUC for multi-label tasks), what guessing gives, and what
        guessing stays under 99 times in 100.
    better_order
        An order of the classes with which the same outputs are clearly right, or None.
    """

    measured: Performance
    score: float
    chance: float
    needed: float
    better_order: tuple[str, ...] | None = None

    @property
    def passed(self) -> bool:
        """Whether the network is better than guessing."""
        return self.score > self.needed


def check(
    model: nn.Module,
    data: Iterable[Any],
    *,
    task: Task,
    classes: Sequence[str],
    device: torch.device,
    split: str = "validation",
) -> Check:
    """Measure a network on labelled batches and compare it with guessing.

    Raises
    ------
    DebrideError
        Where there are no labelled images.
    """
    probable, truth = [], []
    with frozen(model):
        for batch in track(data, f"checking on {split} images"):
            images, labels = unpack(batch)
            if labels is None:
                raise DebrideError(f"the {split} images have no labels: nothing can be measured")
            outputs = outputs_of(model, images.to(device))
            if not bool(torch.isfinite(outputs).all()):
                raise DebrideError(
                    "the network gives outputs that are not finite: check its weights, and "
                    "--mean and --std"
                )
            probable.append(probabilities(outputs, task).double().numpy())
            truth.append(labels.cpu().numpy().astype(np.int64))
    if not truth:
        raise DebrideError(f"there are no {split} images: nothing can be measured")
    return against_chance(np.concatenate(probable), np.concatenate(truth), task, classes, split)


def against_chance(
    probable: npt.NDArray[np.float64],
    truth: npt.NDArray[np.int64],
    task: Task,
    classes: Sequence[str],
    split: str = "validation",
) -> Check:
    """Compare probabilities (N, K) with labels, and with guessing in the same proportions.

    A network that guesses class k with probability q_k, whatever the image, has a recall of q_k
    in class k with variance q_k (1 - q_k) / n_k; balanced accuracy is the mean of K such. For
    multi-label tasks the null variance of the Mann-Whitney statistic is taken.

    Examples
    --------
    >>> truth = np.array([0, 1] * 50)
    >>> right = np.eye(2)[truth]
    >>> found = against_chance(right, truth, "multiclass", ("a", "b"))
    >>> found.passed, found.chance, round(found.needed, 3)
    (True, 0.5, 0.616)
    >>> against_chance(1 - right, truth, "multiclass", ("a", "b")).better_order
    ('b', 'a')
    """
    measured = performance(probable, truth, task, classes, split)
    if task == "multilabel":
        positive = truth.sum(axis=0)
        negative = len(truth) - positive
        both = (positive > 0) & (negative > 0)
        spread = np.sqrt((len(truth) + 1) / (12.0 * positive[both] * negative[both]))
        # labels may go together, so their errors are added as if they always did
        needed = 0.5 + Z99 * float(spread.mean()) if both.any() else 1.0
        return Check(measured, measured["roc_auc"] or 0.0, 0.5, needed)
    decisions = decide(probable, task)
    present = np.unique(truth)
    counts = np.bincount(truth, minlength=len(classes))
    guessed = np.bincount(decisions, minlength=len(classes)) / len(truth)
    variance = (guessed * (1 - guessed))[present] / counts[present]
    chance = float(guessed[present].mean()) if len(present) < len(classes) else 1 / len(classes)
    needed = chance + Z99 * float(np.sqrt(variance.sum())) / len(present)
    return Check(
        measured,
        measured["balanced_accuracy"],
        chance,
        needed,
        _better_order(decisions, truth, classes, counts, needed),
    )


def _better_order(
    decisions: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int64],
    classes: Sequence[str],
    counts: npt.NDArray[np.int64],
    needed: float,
) -> tuple[str, ...] | None:
    """Find the order of classes that makes most sense of the outputs, if another than given."""
    share = np.zeros((len(classes), len(classes)))  # of class (column) given output (row)
    np.add.at(share, (decisions, truth), 1.0)
    share /= np.maximum(counts, 1)
    order = share.argmax(axis=1)
    best, now = float(share.max(axis=1).mean()), float(share.diagonal().mean())
    if sorted(order) != list(range(len(classes))) or best < max(needed, now + 0.2):
        return None
    return tuple(classes[k] for k in order)
