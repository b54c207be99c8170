"""Whether a probability means what it says: ECE, Brier score and the reliability curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import TypedDict

from debride.evidence.intervals import Compared, Measure, compared, strata_of
from debride.evidence.statistics import one_hot
from debride.evidence.task import Array, Labels
from debride.models.outputs import Task
from debride.resampling import RESAMPLES

BINS = 15
"""Of equal width, as Guo et al. 2017 have them."""


class Bin(TypedDict):
    """Images whose probability lies within a bin: how sure the network was, how often right."""

    images: int
    confidence: float
    frequency: float


class Reliability(TypedDict):
    """The curve of both networks; bins without images are left out."""

    of: int | None
    """The class whose probability it is; None for that of the decision, whichever it was."""
    original: list[Bin] | None
    model: list[Bin]


class Calibration(TypedDict):
    """Expected calibration error (mean over the curves), Brier score, and the curves."""

    bins: int
    ece: Compared
    brier: Compared
    curves: list[Reliability]


def calibration(
    probabilities: Sequence[Array],
    labels: Labels,
    task: Task,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Calibration:
    """Measure calibration of one network, or of the original and the model.

    With three or more classes the probability of the decision is compared with how often it is
    right; with two, that of the second class with how often it is there; with labels, each
    label's. ECE is the mean distance of the two, bin by bin, weighted by images (Guo et al.,
    ICML 2017, equation 3); its intervals are corrected for the bias of resamples. The Brier
    score is the squared error summed over the classes (Brier 1950); of the second class alone
    with two; the mean of the labels with labels.

    Parameters
    ----------
    probabilities, labels, task
        As for `debride.evidence.statistics.statistics`.
    seed, resamples
        Of the bootstrap.

    Examples
    --------
    >>> p = np.array([[0.25, 0.75]] * 4)
    >>> found = calibration([p], np.array([1, 1, 1, 0]), "binary")
    >>> found["ece"]["model"]["value"], found["brier"]["model"]["value"]
    (0.0, 0.1875)
    """
    pairs = [_pairs(p, labels, task) for p in probabilities]
    ece, brier = compared(
        [
            _measure(sure, came, _brier(p, labels, task))
            for (sure, came), p in zip(pairs, probabilities, strict=True)
        ],
        strata_of(labels, task),
        biased=[True, False],
        seed=seed,
        resamples=resamples,
    )
    for each in (ece["original"], ece["model"]):
        if each is not None:
            each["low"] = max(each["low"], 0.0)
    classes = probabilities[0].shape[1]
    named: list[int | None] = [None]
    if task == "multilabel":
        named = list(range(classes))
    elif classes == 2:
        named = [1]
    return Calibration(
        bins=BINS,
        ece=ece,
        brier=brier,
        curves=[
            Reliability(
                of=of,
                original=_curve(*(each[:, k] for each in pairs[0])) if len(pairs) == 2 else None,
                model=_curve(*(each[:, k] for each in pairs[-1])),
            )
            for k, of in enumerate(named)
        ],
    )


def _pairs(p: Array, labels: Labels, task: Task) -> tuple[Array, Array]:
    """Give (N, C) probabilities and whether what they speak of came true."""
    if task == "multilabel":
        return p, labels.astype(np.float64)
    if p.shape[1] == 2:
        return p[:, 1:], (labels == 1)[:, None].astype(np.float64)
    return p.max(axis=1)[:, None], (p.argmax(axis=1) == labels)[:, None].astype(np.float64)


def _brier(p: Array, labels: Labels, task: Task) -> Array:
    """Give (N,) the squared error of each image."""
    squared = (p - one_hot(labels, p.shape[1])) ** 2
    # of two classes, both are off by as much
    halved = 1 if task != "multilabel" and p.shape[1] > 2 else p.shape[1]
    error: Array = squared.sum(axis=1) / halved
    return error


def _places(sure: Array) -> Labels:
    places: Labels = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return places


def _measure(sure: Array, came: Array, brier: Array) -> Measure:
    # one column a bin of a curve: weights @ columns is what the bin is off by, in images
    off = np.concatenate(
        [np.eye(BINS)[_places(s)] * (s - c)[:, None] for s, c in zip(sure.T, came.T, strict=True)],
        axis=1,
    )
    curves = sure.shape[1]

    def measure(weights: Array) -> Array:
        total = weights.sum(axis=1)
        ece = np.abs(weights @ off).sum(axis=1) / total / curves
        return np.stack([ece, weights @ brier / total], axis=1)

    return measure


def _curve(sure: Array, came: Array) -> list[Bin]:
    places = _places(sure)
    images = np.bincount(places, minlength=BINS)
    return [
        Bin(
            images=int(images[b]),
            confidence=float(sure[places == b].mean()),
            frequency=float(came[places == b].mean()),
        )
        for b in np.flatnonzero(images)
    ]
