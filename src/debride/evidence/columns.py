"""Which columns of an index make subgroups, and which subgroup each image is in."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from debride.errors import DebrideError

MOST = 8
"""Values of a column that is taken without being asked for; a numeric one may have more."""
BINS = 4
"""Parts that a numeric column with more values is cut into, of equal numbers of images."""
_IDENTIFYING = re.compile(
    r"(^|[_\W])(id|ids|uid|uuid|mrn|name|file|filename|path|patient|lesion|subject|group|"
    r"accession|image)($|[_\W])|(_|[a-z])ID$"
)
_MISSING = {"", "nan", "none", "na", "n/a", "null"}


@dataclass(frozen=True)
class Cut:
    """A column cut into subgroups.

    Attributes
    ----------
    column
        Its name.
    names
        Of the subgroups.
    members
        (N,) which one each image is in; −1 for none.
    """

    column: str
    names: tuple[str, ...]
    members: npt.NDArray[np.int64]


def check_columns(known: Sequence[str], wanted: Sequence[str] | None) -> None:
    """Refuse columns that are not there, or that identify.

    Raises
    ------
    DebrideError
        Naming the first such column.

    Examples
    --------
    >>> check_columns(["age", "sex"], ["sex"])
    >>> check_columns(["age", "sex"], ["six"])
    Traceback (most recent call last):
    ...
    debride.errors.DebrideError: no column 'six' to make subgroups of: there are age, sex
    """
    for name in wanted or ():
        if identifies(name):
            raise DebrideError(
                f"the column '{name}' tells patients or images apart: subgroups of it would be "
                "single people; name another one"
            )
        if name not in known:
            there = ", ".join(each for each in known if not identifies(each)) or "none"
            raise DebrideError(f"no column '{name}' to make subgroups of: there are {there}")


def identifies(name: str) -> bool:
    """Tell whether a column's name is one of identifiers.

    Examples
    --------
    >>> [name for name in ("patient_id", "lesion", "StudyUID", "age", "valid") if identifies(name)]
    ['patient_id', 'lesion', 'StudyUID']
    """
    return bool(_IDENTIFYING.search(name) or _IDENTIFYING.search(name.lower())) or name.endswith(
        ("UID", "Id")
    )


def cut_columns(
    columns: Mapping[str, Sequence[Any]], wanted: Sequence[str] | None = None
) -> tuple[list[Cut], dict[str, str]]:
    """Cut columns into subgroups; also say why others were left out.

    Without `wanted`, those with 2 to 8 values and those of numbers are taken. Numbers with more
    than 8 values are cut at their quartiles. Empty values are in no subgroup. Columns that
    identify patients or images are never taken.

    Parameters
    ----------
    columns
        A value for each of N images, by name; numbers or text.
    wanted
        The columns to take, whatever number of values they have.

    Raises
    ------
    DebrideError
        For a wanted column that is not there or identifies.

    Examples
    --------
    >>> cuts, left = cut_columns({"sex": ["f", "m", "f", ""], "patient_id": [1, 2, 3, 4]})
    >>> cuts[0].names, cuts[0].members.tolist(), left
    (('f', 'm'), [0, 1, 0, -1], {'patient_id': 'tells patients or images apart'})
    """
    check_columns(list(columns), wanted)
    cuts, left_out = [], {}
    for name in columns if wanted is None else dict.fromkeys(wanted):
        found = _cut(name, [_text(value) for value in columns[name]], asked=wanted is not None)
        if isinstance(found, str):
            left_out[name] = found
        else:
            cuts.append(found)
    return cuts, left_out


def _cut(name: str, texts: list[str], *, asked: bool) -> Cut | str:
    if identifies(name):
        return "tells patients or images apart"
    values = sorted({text for text in texts if text})
    if len(values) < 2:
        return "has one value" if values else "is empty"
    numbers = _numbers(texts)
    if numbers is None or len(values) <= MOST:
        if len(values) > MOST and not asked:
            return f"has {len(values)} values"
        if numbers is not None:
            values.sort(key=float)
        place = {value: k for k, value in enumerate(values)} | {"": -1}
        return Cut(name, tuple(values), np.array([place[text] for text in texts], dtype=np.int64))
    known = numbers[~np.isnan(numbers)]
    whole = bool((known == np.round(known)).all())
    if whole and not asked and len(values) > 0.9 * len(known):
        return "has a number of its own for each image"
    edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="lower"))
    edges = edges[edges < known.max()]
    members = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="left"))
    said = _written(edges)
    names = [f"up to {said[0]}"]
    names += [f"over {low} to {high}" for low, high in itertools.pairwise(said)]
    return Cut(name, (*names, f"over {said[-1]}"), members.astype(np.int64))


def _written(edges: npt.NDArray[np.float64]) -> list[str]:
    """Write cut points, whole or to three digits, or as many more as tell them apart."""
    if (edges == np.round(edges)).all():
        return [f"{edge:.0f}" for edge in edges]
    for digits in range(3, 18):
        said = [np.format_float_positional(e, digits, fractional=False, trim="-") for e in edges]
        if len({*said}) == len(said):
            break
    return said


def _text(value: Any) -> str:
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in _MISSING else text


def _numbers(texts: list[str]) -> npt.NDArray[np.float64] | None:
    try:
        found = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return None if np.isinf(found).any() else found
