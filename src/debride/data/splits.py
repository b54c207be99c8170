"""Validation images taken from the training ones, by class and by patient."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.data.images import Record

Labels = NDArray[np.int64]
Chosen = NDArray[np.bool_]


def positives(label: int | tuple[int, ...]) -> list[int]:
    """Return the class indices of a label.

    Examples
    --------
    >>> positives(2), positives((1, 0, 1))
    ([2], [0, 2])
    """
    if isinstance(label, int):
        return [label]
    return [index for index, flag in enumerate(label) if flag]


def strata(records: Sequence[Record], classes: int) -> Labels:
    """Return one stratum an image: its class, or the rarest of its classes (`classes` if none)."""
    found = [positives(record.label) for record in records]
    frequency = np.bincount([index for each in found for index in each], minlength=classes)
    return np.array(
        [min(each, key=lambda index: frequency[index], default=classes) for each in found],
        dtype=np.int64,
    )


def take_validation(
    records: Sequence[Record],
    classes: Sequence[str],
    fraction: float,
    seed: int,
    *,
    where: str = "the data set",
) -> tuple[tuple[Record, ...], tuple[Record, ...], str]:
    """Split training records in two, stratified by class, never cutting through a group.

    Returns
    -------
    tuple
        The training records, the validation records, and a sentence that says what was done.

    Raises
    ------
    DebrideError
        When a class has too few images, or too few groups, to be on both sides.
    """
    if not 0 < fraction <= 0.5:
        raise DebrideError(f"the validation share must lie in (0, 0.5], and is {fraction:g}")
    labels = strata(records, len(classes))
    grouped = any(record.group is not None for record in records)
    unit = "groups" if grouped else "images"
    keys = [record.group or f"\0{index}" for index, record in enumerate(records)]
    for index, name in enumerate(classes):
        members = {
            key
            for key, record in zip(keys, records, strict=True)
            if index in positives(record.label)
        }
        if len(members) < 2:
            raise DebrideError(
                f"no validation split can be taken from the training images of '{where}': class "
                f"'{name}' has {len(members)} of the {unit} and needs 2; add a 'val' split"
            )
    chosen = _grouped(labels, keys, fraction, seed) if grouped else _plain(labels, fraction, seed)
    train = tuple(record for record, out in zip(records, chosen, strict=True) if not out)
    val = tuple(record for record, out in zip(records, chosen, strict=True) if out)
    for side, part in (("training", train), ("validation", val)):
        seen = {index for record in part for index in positives(record.label)}
        for index, name in enumerate(classes):
            if index not in seen:
                raise DebrideError(
                    f"no validation split can be taken from the training images of '{where}': all "
                    f"{unit} of class '{name}' would leave the {side} side; add a 'val' split"
                )
    share = len(val) / len(records)
    how = f"stratified by class and grouped ({len(set(keys))} groups)" if grouped else "stratified"
    note = (
        f"There is no validation split: {len(val)} of {len(records)} training images "
        f"({share:.0%}, {how}, seed {seed}) were taken for it."
    )
    return train, val, note


def _plain(labels: Labels, fraction: float, seed: int) -> Chosen:
    chosen = np.zeros(len(labels), dtype=bool)
    rng = np.random.default_rng(seed)
    for stratum in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == stratum))
        count = round(fraction * len(members))
        chosen[members[: min(max(count, 1), len(members) - 1)]] = True
    return chosen


def _grouped(labels: Labels, keys: Sequence[str], fraction: float, seed: int) -> Chosen:
    """Choose the fold nearest to `fraction` that has every stratum on both sides, if any has."""
    chosen = np.zeros(len(labels), dtype=bool)
    most = min(max(2, round(1 / fraction)), int(np.bincount(labels).max()))
    for count in range(most, 1, -1):
        folds = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
        with warnings.catch_warnings():  # that a class has fewer images than there are folds
            warnings.simplefilter("ignore")
            parts = [part for _, part in folds.split(labels, labels, keys)]
        for part in parts:
            chosen[:] = False
            chosen[part] = True
            if set(labels[chosen]) == set(labels[~chosen]):
                return chosen
    return chosen
