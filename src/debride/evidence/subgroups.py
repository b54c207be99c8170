"""Whether subgroups of the images (by age, sex, site, ...) are served alike, before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import TypedDict

from debride.evidence.columns import Cut
from debride.evidence.intervals import Compared, Measure, compared, strata_of
from debride.evidence.statistics import class_accuracy, one_hot
from debride.evidence.task import Array, Labels, decide
from debride.models.outputs import Task
from debride.resampling import RESAMPLES, Flags, mean_of_known

LEAST_IMAGES = 20
"""Of a subgroup; smaller ones are left out and counted."""
LEAST_OF_CLASS = 5
"""Images of a class in a subgroup; rarer classes have no part in its balanced accuracy."""


class Subgroup(TypedDict):
    """One subgroup: balanced accuracy over its classes with five images or more."""

    name: str
    images: int
    classes: int
    balanced_accuracy: Compared


class Gap(TypedDict):
    """Balanced accuracy of one subgroup minus another's."""

    better: str
    worse: str
    difference: Compared


class Column(TypedDict):
    """The subgroups of one column."""

    column: str
    missing: int
    """Images without a value."""
    small: int
    """Subgroups left out: fewer than 20 images, or than two classes with five."""
    small_images: int
    groups: list[Subgroup]
    gap: Gap | None
    """Of the network's best and worst subgroup; None with fewer than two subgroups."""
    uneven: Gap | None
    """Of the two subgroups that pruning changed most differently; None without an original."""


class Subgroups(TypedDict):
    """What the columns of the index show, and why others were left out."""

    least_images: int
    columns: list[Column]
    left_out: dict[str, str]


def subgroups(
    probabilities: Sequence[Array],
    labels: Labels,
    task: Task,
    cuts: Sequence[Cut],
    left_out: dict[str, str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Subgroups:
    """Compare subgroups in one network, or in the original and the model.

    Parameters
    ----------
    probabilities, labels, task
        As for `debride.evidence.statistics.statistics`.
    cuts, left_out
        What `debride.evidence.columns.cut_columns` gave.
    seed, resamples
        Of the bootstrap, whose resamples are those of the other figures.

    Examples
    --------
    >>> p = np.eye(2)[np.tile([0, 1], 40)]
    >>> sex = Cut("sex", ("f", "m"), np.repeat([0, 1], 40))
    >>> found = subgroups([p], np.tile([0, 1], 40), "multiclass", [sex])["columns"][0]
    >>> [group["balanced_accuracy"]["model"]["value"] for group in found["groups"]]
    [1.0, 1.0]
    """
    return Subgroups(
        least_images=LEAST_IMAGES,
        columns=[_column(probabilities, labels, task, cut, seed, resamples) for cut in cuts],
        left_out=dict(left_out or {}),
    )


def _column(
    probabilities: Sequence[Array], labels: Labels, task: Task, cut: Cut, seed: int, resamples: int
) -> Column:
    truth = one_hot(labels, probabilities[0].shape[1])
    sizes = np.bincount(cut.members[cut.members >= 0], minlength=len(cut.names))
    kept = {}  # subgroup -> the classes that count in it
    for k in np.flatnonzero(sizes >= LEAST_IMAGES):
        inside = truth[cut.members == k]
        enough = inside.sum(axis=0) >= LEAST_OF_CLASS
        if task == "multilabel":
            enough &= (~inside).sum(axis=0) >= LEAST_OF_CLASS
        if enough.sum() >= (1 if task == "multilabel" else 2):
            kept[int(k)] = np.flatnonzero(enough)
    small = [k for k in np.flatnonzero(sizes) if int(k) not in kept]
    column = Column(
        column=cut.column,
        missing=int((cut.members < 0).sum()),
        small=len(small),
        small_images=int(sizes[small].sum()),
        groups=[],
        gap=None,
        uneven=None,
    )
    if not kept:
        return column
    singles = [_measure(p, truth, task, cut, kept) for p in probabilities]
    whole = [single(np.ones((1, len(labels))))[0] for single in singles]
    # equal ones are apart by nothing, which is a figure too
    best = int(whole[-1].argmax())
    pairs = [(best, int(np.roll(whole[-1], -best - 1).argmin() + best + 1) % len(kept))]
    if len(whole) == 2:
        changes = whole[1] - whole[0]
        pairs.append((int(changes.argmax()), int(changes.argmin())))
    found = compared(
        [_with_pairs(single, pairs) for single in singles],
        strata_of(labels, task),
        seed=seed,
        resamples=resamples,
    )
    names = [cut.names[k] for k in kept]
    column["groups"] = [
        Subgroup(
            name=name, images=int(sizes[k]), classes=len(kept[k]), balanced_accuracy=found[place]
        )
        for place, (k, name) in enumerate(zip(kept, names, strict=True))
    ]
    gaps = [
        Gap(better=names[a], worse=names[b], difference=figure) if a != b else None
        for (a, b), figure in zip(pairs, found[len(kept) :], strict=True)
    ]
    column["gap"] = gaps[0]
    column["uneven"] = gaps[1] if len(gaps) == 2 else None
    return column


def _measure(p: Array, truth: Flags, task: Task, cut: Cut, kept: dict[int, Labels]) -> Measure:
    chosen = one_hot(decide(p, task), p.shape[1])

    def measure(weights: Array) -> Array:
        found = []
        for k, classes in kept.items():
            inside = cut.members == k
            each = class_accuracy(weights[:, inside], chosen[inside], truth[inside], task)
            found.append(mean_of_known(each[:, classes]))
        return np.stack(found, axis=1)

    return measure


def _with_pairs(single: Measure, pairs: list[tuple[int, int]]) -> Measure:
    def measure(weights: Array) -> Array:
        groups = single(weights)
        differences = [groups[:, a] - groups[:, b] for a, b in pairs]
        return np.concatenate([groups, np.stack(differences, axis=1)], axis=1)

    return measure
