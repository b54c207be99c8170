"""How well the task is done: accuracy, balanced accuracy, ROC AUC, recall of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.models.outputs import Task
from debride.resampling import Array as Array
from debride.resampling import Labels as Labels


class Performance(TypedDict):
    """How well one network does on the split; every share is within 0 and 1.

    For multi-label tasks `accuracy` is the share of single labels that are right,
    `balanced_accuracy` the mean over labels of (sensitivity + specificity) / 2, and
    `support` the number of positive images.
    """

    accuracy: float
    balanced_accuracy: float
    roc_auc: float | None
    roc_auc_missing: str | None
    """Why there is no ROC AUC; None when there is one."""
    recall: list[float | None]
    """In the order of the classes; None for a class without images."""
    support: list[int]


class Decisions(TypedDict):
    """How many images the two networks decide alike, and what became of the others."""

    same: int
    lost: int
    """The original was right, the model is wrong."""
    gained: int
    """The original was wrong, the model is right."""
    otherwise: int
    """Both wrong, in different ways."""


def decide(probabilities: Array, task: Task) -> Labels:
    """Turn probabilities (N, K) into decisions: (N,) class indices, or (N, K) 0/1 if multi-label.

    A label of a multi-label task is given where its probability is over one half.

    Examples
    --------
    >>> decide(np.array([[0.2, 0.8], [0.6, 0.4]]), "binary")
    array([1, 0])
    """
    if task == "multilabel":
        return (probabilities > 0.5).astype(np.int64)
    decisions: Labels = probabilities.argmax(axis=1).astype(np.int64)
    return decisions


def class_indices(decision: Any) -> tuple[int, ...]:
    """Give the classes of one image's decision or label: one, or for multi-label tasks any number.

    Examples
    --------
    >>> class_indices(np.int64(2)), class_indices(np.array([1, 0, 1]))
    ((2,), (0, 2))
    """
    if np.ndim(decision) == 0:
        return (int(decision),)
    return tuple(int(k) for k in np.flatnonzero(decision))


def performance(
    probabilities: Array, labels: Labels, task: Task, classes: Sequence[str], split: str
) -> Performance:
    """Measure one network on one split.

    Parameters
    ----------
    probabilities
        (N, K), rows as the network gave them.
    labels
        (N,) class indices, or (N, K) of 0 and 1 for multi-label tasks.
    task
        "multiclass", "binary" or "multilabel".
    classes
        The K names, used in the reason why there is no ROC AUC.
    split
        Name of the split, for the same sentence.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    >>> measured = performance(p, np.array([0, 1, 1, 1]), "binary", ("no", "yes"), "test")
    >>> measured["accuracy"], round(measured["balanced_accuracy"], 3), measured["roc_auc"]
    (0.75, 0.833, 1.0)
    """
    decisions = decide(probabilities, task)
    multilabel = task == "multilabel"
    truth = labels if multilabel else np.eye(len(classes), dtype=np.int64)[labels]
    chosen = decisions if multilabel else np.eye(len(classes), dtype=np.int64)[decisions]
    support = truth.sum(axis=0)
    recall = recall_score(truth, chosen, average=None, zero_division=np.nan)
    if multilabel:
        specificity = recall_score(1 - truth, 1 - chosen, average=None, zero_division=np.nan)
        # a label that all images have, or none, has only one of the two
        halves = np.stack([recall, specificity])
        balanced = float(np.nanmean(np.nanmean(halves, axis=0)))
        accuracy = float((truth == chosen).mean())
    else:
        balanced = float(np.nanmean(recall))
        accuracy = float(accuracy_score(labels, decisions))
    missing = _why_no_auc(truth, classes, split)
    return Performance(
        accuracy=accuracy,
        balanced_accuracy=balanced,
        roc_auc=None if missing else float(roc_auc_score(truth, probabilities, average="macro")),
        roc_auc_missing=missing,
        recall=[None if np.isnan(value) else float(value) for value in recall],
        support=[int(count) for count in support],
    )


def compare_decisions(
    before: Array, after: Array, labels: Labels, task: Task
) -> tuple[Decisions, npt.NDArray[np.bool_]]:
    """Count the images decided alike and otherwise; also give (N,) where they differ.

    Examples
    --------
    >>> before = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    >>> after = np.array([[0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    >>> compare_decisions(before, after, np.array([0, 0, 1]), "binary")[0]
    {'same': 1, 'lost': 1, 'gained': 1, 'otherwise': 0}
    """
    rows = (len(labels), -1)
    first, second = decide(before, task).reshape(rows), decide(after, task).reshape(rows)
    truth = labels.reshape(rows)
    changed: npt.NDArray[np.bool_] = (first != second).any(axis=1)
    right_before = (first == truth).all(axis=1)
    right_after = (second == truth).all(axis=1)
    counts = Decisions(
        same=int((~changed).sum()),
        lost=int((right_before & ~right_after).sum()),
        gained=int((~right_before & right_after).sum()),
        otherwise=int((changed & ~right_before & ~right_after).sum()),
    )
    return counts, changed


def _why_no_auc(truth: Labels, classes: Sequence[str], split: str) -> str | None:
    positives = truth.sum(axis=0)
    lacking = [name for name, count in zip(classes, positives, strict=True) if count == 0]
    if lacking:
        return f"no image of {_listed(lacking)} in the {split} split"
    only = [name for name, count in zip(classes, positives, strict=True) if count == len(truth)]
    if only:
        return f"every image of the {split} split is {_listed(only)}"
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
