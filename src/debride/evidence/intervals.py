"""Bootstrap intervals of anything that can be measured on weighted images, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.models.outputs import Task
from debride.resampling import RESAMPLES, Array, Labels, resampled

CONFIDENCE = 0.95
"""Of every interval of the evidence."""

Measure = Callable[[Array], Array]
"""Weights of the images (B, N) -> figures (B, M); NaN where there is none."""


class Estimate(TypedDict):
    """A figure on all images, and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Compared(TypedDict):
    """The same figure of both networks, and model − original on the same resamples.

    None where there is no original, or the figure is not defined.
    """

    original: Estimate | None
    model: Estimate | None
    change: Estimate | None


def compared(
    measures: Sequence[Measure],
    strata: Labels,
    *,
    counts: Sequence[Array] | None = None,
    biased: Sequence[bool] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Compared]:
    """Estimate M figures of one network, or of two on the same resamples.

    The interval is from the 2.5th to the 97.5th percentile of the resamples, of the change as
    of the figures themselves (Efron and Tibshirani 1993, chapter 13). Resamples on which a
    figure is not defined have no part in it. What is larger on resamples than on the images,
    as a mean of distances is, is `biased`: its resamples are shifted by what their mean is off
    (chapter 10). A share of 0 or 1 is so in every resample; where
    `counts` says of how many images it is one, its interval is the exact one (Clopper and
    Pearson 1934).

    Parameters
    ----------
    measures
        The network's, or the original's and the network's.
    strata
        (N,) what each image is drawn among; see `debride.resampling`.
    counts
        (M,) of each network: how many images a figure is a share of; NaN for other figures.
    biased
        (M,) of the figures; none by default.
    seed, resamples
        Of the bootstrap.

    Examples
    --------
    >>> right = np.array([1.0, 1.0, 0.0, 1.0])
    >>> measure = lambda weights: (weights @ right / weights.sum(axis=1))[:, None]
    >>> (found,) = compared([measure, measure], np.zeros(4, dtype=np.int64))
    >>> found["model"]
    {'value': 0.75, 'low': 0.25, 'high': 1.0}
    >>> found["change"]
    {'value': 0.0, 'low': 0.0, 'high': 0.0}
    """
    whole = [measure(np.ones((1, len(strata)))) for measure in measures]
    drawn: list[list[Array]] = [[] for _ in measures]
    for weights in resampled(strata, seed, resamples):
        for some, measure in zip(drawn, measures, strict=True):
            some.append(measure(weights))
    draws = [np.concatenate([*some]) for some in drawn]
    if biased is not None:
        off = [point[0] - draw.mean(axis=0) for point, draw in zip(whole, draws, strict=True)]
        draws = [d + np.where(biased, o, 0) for d, o in zip(draws, off, strict=True)]
    behind = counts or [np.full(whole[0].shape[1], np.nan)] * len(measures)
    each = [
        [_exact(found, count) for found, count in zip(_estimates(point[0], draw), of, strict=True)]
        for point, draw, of in zip(whole, draws, behind, strict=True)
    ]
    nothing: list[Estimate | None] = [None] * whole[0].shape[1]
    pair = len(measures) == 2
    changes = _estimates(whole[-1][0] - whole[0][0], draws[-1] - draws[0]) if pair else nothing
    return [
        Compared(original=original, model=model, change=change)
        for original, model, change in zip(
            each[0] if pair else nothing, each[-1], changes, strict=True
        )
    ]


def means(values: Array) -> Measure:
    """Give the measure that is the mean over the images of values (N, M).

    Examples
    --------
    >>> means(np.array([[1.0], [0.0]]))(np.array([[1.0, 1.0], [2.0, 0.0]]))
    array([[0.5],
           [1. ]])
    """
    return lambda weights: weights @ values / weights.sum(axis=1, keepdims=True)


def strata_of(labels: Labels, task: Task) -> Labels:
    """Give what each image is drawn among: its class; if multi-label, the rarest of its labels.

    Examples
    --------
    >>> strata_of(np.array([[1, 0], [1, 1], [1, 0], [0, 0]]), "multilabel")
    array([1, 2, 1, 0])
    """
    if task != "multilabel":
        return labels
    rarest_first = labels.sum(axis=0).argsort(kind="stable")
    carried = labels[:, rarest_first] == 1
    strata: Labels = np.where(carried.any(axis=1), 1 + rarest_first[carried.argmax(axis=1)], 0)
    return strata


def _exact(found: Estimate | None, count: float) -> Estimate | None:
    """Give a share of 0 or 1 the interval that the number of its images allows."""
    if found is None or np.isnan(count) or not found["low"] == found["high"] == found["value"]:
        return found
    possible = ((1 - CONFIDENCE) / 2) ** (1 / count)
    if found["value"] == 1:
        return Estimate(value=1.0, low=possible, high=1.0)
    if found["value"] == 0:
        return Estimate(value=0.0, low=0.0, high=1 - possible)
    return found


def _estimates(points: Array, draws: Array) -> list[Estimate | None]:
    tail = (1 - CONFIDENCE) / 2
    found: list[Estimate | None] = []
    for point, column in zip(points, draws.T, strict=True):
        known = column[~np.isnan(column)]
        if np.isnan(point) or len(known) == 0:
            found.append(None)
            continue
        low, high = np.quantile(known, [tail, 1 - tail])
        found.append(Estimate(value=float(point), low=float(low), high=float(high)))
    return found
