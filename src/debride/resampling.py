"""Images that count as often as a weight says: how a bootstrap measures without drawing images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Steps = tuple[Array, Array]
"""Weight of the positives and of the others at each distinct score, ascending: two (B, T)."""

RESAMPLES = 2000
"""Bootstrap samples behind an interval."""

AT_ONCE = 4_000_000
"""Weights held in memory at once."""


def resampled(strata: Labels, seed: int, resamples: int = RESAMPLES) -> Iterator[Array]:
    """Give bootstrap weights (B, N), a part of the samples at a time.

    The images of every stratum are drawn with replacement among themselves, so that none goes
    empty (Efron and Tibshirani 1993, chapter 8).

    Parameters
    ----------
    strata
        (N,) what each image is drawn among.
    seed
        Of the draw; the same seed and strata give the same weights.
    resamples
        How many in all.

    Examples
    --------
    >>> weights = np.concatenate(list(resampled(np.array([0, 0, 0, 1]), seed=0, resamples=5)))
    >>> weights.shape, weights[:, :3].sum(axis=1).tolist(), weights[:, 3].tolist()
    ((5, 4), [3.0, 3.0, 3.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == value) for value in np.unique(strata)]
    while resamples > 0:
        some = min(resamples, max(1, AT_ONCE // len(strata)))
        weights = np.zeros((some, len(strata)))
        for rows in members:
            weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), some)
        resamples -= some
        yield weights


def share(weights: Array, right: Flags, members: Flags) -> Array:
    """Give the weighted share of the members that are right; NaN without members.

    Parameters
    ----------
    weights
        (B, N).
    right, members
        (N,) or (N, K).

    Examples
    --------
    >>> share(np.array([[1.0, 1.0, 2.0]]), np.array([True, False, True]), np.ones(3, dtype=bool))
    array([0.75])
    """
    total = weights @ members.astype(np.float64)
    return np.where(
        total > 0, weights @ (right & members).astype(np.float64) / np.maximum(total, 1e-12), np.nan
    )


def mean_of_known(values: Array) -> Array:
    """Give the mean over the last axis of what is not NaN; NaN where all is.

    Examples
    --------
    >>> mean_of_known(np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, np.nan]]))
    array([1.5, nan])
    """
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def steps(weights: Array, scores: Array, members: Flags) -> Steps:
    """Give what the ROC curve is made of.

    Parameters
    ----------
    weights
        (B, N).
    scores, members
        (N,) the score of each image, and whether it is a positive.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    ordered, positive = weights[:, order], members[order]
    first = np.add.reduceat(ordered * positive, starts, axis=1)
    return first, np.add.reduceat(ordered, starts, axis=1) - first


def area(curve: Steps) -> Array:
    """Give (B,) areas under the ROC curve, ties counting half; NaN without both kinds.

    Examples
    --------
    >>> scores, members = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])
    >>> area(steps(np.ones((1, 4)), scores, members))
    array([0.875])
    """
    first, other = curve
    pairs = first.sum(axis=1) * other.sum(axis=1)
    won = (first * (other.cumsum(axis=1) - other / 2)).sum(axis=1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1e-12), np.nan)


def sensitivity(curve: Steps, specificity: float) -> Array:
    """Give (B,) the largest sensitivity at a specificity no lower; NaN without both kinds.

    Examples
    --------
    >>> scores, members = np.array([0.1, 0.4, 0.5, 0.9]), np.array([False, False, True, True])
    >>> sensitivity(steps(np.ones((1, 4)), scores, members), specificity=0.9)
    array([1.])
    """
    first, other = curve
    positives, negatives = first.sum(axis=1), other.sum(axis=1)
    # what scores higher than the lowest step that leaves enough of the others below is called
    enough = other.cumsum(axis=1) >= specificity * negatives[:, None] - 1e-9
    missed = np.take_along_axis(first.cumsum(axis=1), enough.argmax(axis=1)[:, None], axis=1)[:, 0]
    both = (positives > 0) & (negatives > 0)
    return np.where(both, 1 - missed / np.maximum(positives, 1e-12), np.nan)
