"""Task figures with bootstrap intervals, before and after on the same resamples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import TypedDict

from debride.evidence.intervals import CONFIDENCE, Compared, Measure, compared, strata_of
from debride.evidence.task import Array, Labels, decide
from debride.models.outputs import Task
from debride.resampling import RESAMPLES, Flags, area, mean_of_known, sensitivity, share, steps

SPECIFICITY = 0.9
"""At which sensitivity is reported, unless asked for another."""


class ClassStatistics(TypedDict):
    """Figures of one class against the others; of one label, for multi-label tasks."""

    support: int
    recall: Compared
    precision: Compared
    auc: Compared
    sensitivity: Compared
    """The largest at the specificity asked for; each network's threshold is its own."""


class McNemar(TypedDict):
    """Whether right decisions that were lost and gained balance: exact, two-sided."""

    lost: int
    gained: int
    p: float


class Statistics(TypedDict):
    """Figures of the whole split and of its classes, in their order."""

    resamples: int
    confidence: float
    specificity: float
    accuracy: Compared
    balanced_accuracy: Compared
    auc: Compared
    classes: list[ClassStatistics]
    mcnemar: McNemar | None


def statistics(
    probabilities: Sequence[Array],
    labels: Labels,
    task: Task,
    *,
    specificity: float = SPECIFICITY,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Statistics:
    """Measure one network, or the original and the model, with paired bootstrap intervals.

    Definitions are those of `debride.evidence.task.performance`. Images are drawn within their
    classes, so that no class goes empty.

    Parameters
    ----------
    probabilities
        (N, K) of each network; the original's first.
    labels
        (N,) class indices, or (N, K) of 0 and 1 for multi-label tasks.
    task
        "multiclass", "binary" or "multilabel".
    specificity
        At which sensitivity is reported.
    seed, resamples
        Of the bootstrap.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    >>> found = statistics([p], np.array([0, 1, 1, 1]), "binary")
    >>> round(found["classes"][1]["recall"]["model"]["value"], 3), found["auc"]["model"]["value"]
    (0.667, 1.0)
    """
    found = compared(
        [_measure(p, labels, task, specificity) for p in probabilities],
        strata_of(labels, task),
        counts=[_counts(p, labels, task) for p in probabilities],
        seed=seed,
        resamples=resamples,
    )
    count = probabilities[0].shape[1]
    support = labels.sum(axis=0) if task == "multilabel" else np.bincount(labels, minlength=count)
    return Statistics(
        resamples=resamples,
        confidence=CONFIDENCE,
        specificity=specificity,
        accuracy=found[0],
        balanced_accuracy=found[1],
        auc=found[2],
        classes=[
            ClassStatistics(
                support=int(support[k]), recall=recall, precision=precision, auc=auc, sensitivity=at
            )
            for k, (recall, precision, auc, at) in enumerate(
                zip(*(found[3 + i * count : 3 + (i + 1) * count] for i in range(4)), strict=True)
            )
        ],
        mcnemar=None if len(probabilities) == 1 else _mcnemar(probabilities, labels, task),
    )


def class_accuracy(weights: Array, chosen: Flags, truth: Flags, task: Task) -> Array:
    """Give what balanced accuracy is the mean of: (B, K) for weights (B, N) and flags (N, K).

    Recall of each class; for multi-label tasks the mean of a label's sensitivity and specificity.
    """
    recall = share(weights, chosen, truth)
    if task != "multilabel":
        return recall
    # a label that all images have, or none, has only one of the two
    return mean_of_known(np.stack([recall, share(weights, ~chosen, ~truth)], axis=-1))


def one_hot(labels: Labels, classes: int) -> Flags:
    """Turn class indices (N,) into (N, K) flags; several labels an image stay what they are.

    Examples
    --------
    >>> one_hot(np.array([1, 0]), 2).tolist()
    [[False, True], [True, False]]
    """
    return np.eye(classes, dtype=bool)[labels] if labels.ndim == 1 else labels.astype(bool)


def _measure(probabilities: Array, labels: Labels, task: Task, specificity: float) -> Measure:
    classes = probabilities.shape[1]
    truth, chosen = one_hot(labels, classes), one_hot(decide(probabilities, task), classes)
    right: Flags = np.asarray(truth == chosen)
    if task != "multilabel":
        right = np.asarray(right.all(axis=1, keepdims=True))

    def measure(weights: Array) -> Array:
        accuracy = share(weights, right, np.ones_like(right)).mean(axis=1)
        balanced = mean_of_known(class_accuracy(weights, chosen, truth, task))
        recall, precision = share(weights, chosen, truth), share(weights, truth, chosen)
        auc, called = (np.empty_like(recall) for _ in range(2))
        for k in range(classes):
            curve = steps(weights, probabilities[:, k], truth[:, k])
            auc[:, k], called[:, k] = area(curve), sensitivity(curve, specificity)
        whole = np.stack([accuracy, balanced, auc.mean(axis=1)], axis=1)
        return np.concatenate([whole, recall, precision, auc, called], axis=1)

    return measure


def _counts(probabilities: Array, labels: Labels, task: Task) -> Array:
    """Give how many images each figure of `_measure` is a share of; NaN where it is none."""
    classes = probabilities.shape[1]
    truth, chosen = one_hot(labels, classes), one_hot(decide(probabilities, task), classes)
    whole = np.array([np.nan if task == "multilabel" else len(labels), np.nan, np.nan])
    none = np.full(classes, np.nan)
    return np.concatenate([whole, truth.sum(axis=0), chosen.sum(axis=0), none, truth.sum(axis=0)])


def _mcnemar(probabilities: Sequence[Array], labels: Labels, task: Task) -> McNemar:
    rows = (len(labels), -1)
    truth = labels.reshape(rows)
    before, after = ((decide(p, task).reshape(rows) == truth).all(axis=1) for p in probabilities)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    return McNemar(lost=lost, gained=gained, p=exact_p(lost, gained))


def exact_p(lost: int, gained: int) -> float:
    """Give the two-sided p value of McNemar's exact test: a fair coin, thrown lost + gained times.

    Examples
    --------
    >>> exact_p(0, 0), exact_p(9, 1)
    (1.0, 0.021484375)
    """
    count, tail, term = lost + gained, 0, 1
    for k in range(min(lost, gained) + 1):
        tail += term
        term = term * (count - k) // (k + 1)
    return min(1.0, 2 * tail / int(2**count))
