"""The images that the two networks decide differently: those to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from typing_extensions import TypedDict

from debride.evidence.intervals import Estimate, compared, means, strata_of
from debride.evidence.task import Array, Labels, class_indices, compare_decisions, decide
from debride.models.outputs import Task
from debride.resampling import RESAMPLES

LISTED = 24
"""Changed decisions that are listed with a picture."""


class ChangedImage(TypedDict):
    """One changed decision; several classes or none only for multi-label tasks."""

    index: int
    true: list[int]
    before: list[int]
    after: list[int]
    before_score: float
    """How sure the original was of what it decided; see `sureness`."""
    after_score: float
    kind: Literal["lost", "gained", "otherwise"]
    """Right before and now wrong; wrong before and now right; wrong in another way."""


class Changed(TypedDict):
    """How many decisions changed, and the first of them, the original's surest first."""

    images: int
    share: Estimate | None
    shown: list[ChangedImage]


def sureness(probabilities: Array, other: Array, task: Task) -> Array:
    """Give (N,) how sure a network is of what another decides differently.

    The probability of its decision; for multi-label tasks that of the surest label on which the
    two differ, present or absent (0 where they do not).

    Examples
    --------
    >>> sureness(np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]]), "multiclass")
    array([0.9])
    >>> sureness(np.array([[0.9, 0.3]]), np.array([[0.8, 0.7]]), "multilabel")
    array([0.7])
    """
    sure = probabilities
    if task == "multilabel":
        differs = decide(probabilities, task) != decide(other, task)
        sure = np.where(differs, np.maximum(probabilities, 1 - probabilities), 0)
    surest: Array = sure.max(axis=1)
    return surest


def changed(
    before: Array,
    after: Array,
    labels: Labels,
    task: Task,
    indices: Sequence[int],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Changed:
    """List changed decisions, the original's surest first.

    Parameters
    ----------
    before, after
        (N, K) probabilities of the two networks.
    labels, task
        As for `debride.evidence.statistics.statistics`.
    indices
        Position of each of the N images in the split.
    seed, resamples
        Of the bootstrap behind the interval of the share.

    Examples
    --------
    >>> before = np.array([[0.9, 0.1], [0.7, 0.3], [0.95, 0.05]])
    >>> after = np.array([[0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    >>> found = changed(before, after, np.array([0, 0, 1]), "binary", range(3))
    >>> [(image["index"], image["kind"]) for image in found["shown"]]
    [(2, 'gained'), (0, 'lost')]
    """
    _, differs = compare_decisions(before, after, labels, task)
    sure, now = sureness(before, after, task), sureness(after, before, task)
    rows = np.flatnonzero(differs)
    first = rows[np.lexsort((rows, -sure[rows]))][:LISTED]
    decided = [decide(p, task) for p in (before, after)]
    shown = []
    for row in first:
        true, was, is_ = (class_indices(each[row]) for each in (labels, *decided))
        shown.append(
            ChangedImage(
                index=int(indices[row]),
                true=list(true),
                before=list(was),
                after=list(is_),
                before_score=float(sure[row]),
                after_score=float(now[row]),
                kind="lost" if was == true else "gained" if is_ == true else "otherwise",
            )
        )
    shares = means(differs[:, None].astype(np.float64))
    (share,) = compared(
        [shares],
        strata_of(labels, task),
        counts=[np.array([float(len(labels))])],
        seed=seed,
        resamples=resamples,
    )
    return Changed(images=len(rows), share=share["model"], shown=shown)
