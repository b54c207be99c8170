"""Reading CSV: index.csv beside class folders, and what manifests share with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from debride.errors import DebrideError

GROUP_COLUMNS = ("patient", "patient_id", "lesion", "lesion_id", "subject", "subject_id", "group")
_FILE_COLUMNS = ("file", "filename", "image", "image_id")


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a CSV file with a header: its columns and its rows, stripped of spaces.

    Fields are separated by commas; by semicolons or tabs where the header has no comma.

    Raises
    ------
    DebrideError
        When it is not a text file, is empty, or a row is longer or shorter than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        header_line = text.partition("\n")[0]
        delimiter = next((each for each in ",;\t" if each in header_line), ",")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        lines = [line for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DebrideError(f"cannot read '{path}' as a CSV file in UTF-8: {error}") from error
    if len(lines) < 2:
        raise DebrideError(f"'{path}' has no rows: it needs a header line and a line an image")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) != len(header):
        raise DebrideError(f"'{path}' has two columns of the same name: rename one")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise DebrideError(
                f"row {number} of '{path}' has {len(line)} fields and the header has "
                f"{len(header)}: put quotes around a field that contains a '{delimiter}'"
            )
    return header, [dict(zip(header, map(str.strip, line), strict=True)) for line in lines[1:]]


def group_column(columns: Sequence[str]) -> str | None:
    """Return the first column that says which images belong together.

    Examples
    --------
    >>> group_column(["file", "age", "lesion_id"])
    'lesion_id'
    """
    return next((name for name in GROUP_COLUMNS if name in columns), None)


@dataclass(frozen=True)
class Index:
    """The rows of an ``index.csv``, found by split, class and file name."""

    columns: tuple[str, ...]
    group: str | None
    rows: Mapping[tuple[str, str, str], Mapping[str, str]]

    def find(self, split: str, class_name: str, file: str) -> Mapping[str, str] | None:
        """Return the row of an image, or nothing."""
        for key in (file, str(PurePosixPath(file).with_suffix(""))):
            row = self.rows.get(
                (
                    split if "split" in self.columns else "",
                    class_name if "class" in self.columns else "",
                    key,
                )
            )
            if row is not None:
                return row
        return None

    def split_row(self, row: Mapping[str, str]) -> tuple[str | None, dict[str, str]]:
        """Return the group of a row, and its columns that say something about the image."""
        group = row[self.group] or None if self.group else None
        left_out = {"split", "class", self.group, *_FILE_COLUMNS}
        return group, {name: value for name, value in row.items() if name not in left_out}


def read_index(path: Path) -> Index:
    """Read ``index.csv``: columns ``split`` and ``class`` if any, a file name, and others.

    Raises
    ------
    DebrideError
        When no column holds the file names, or two rows are for the same image.
    """
    columns, rows = read_rows(path)
    key = next((name for name in _FILE_COLUMNS if name in columns), None)
    if key is None:
        raise DebrideError(
            f"'{path}' has no column of file names: name one of its columns 'file' or 'image_id' "
            f"(it has {', '.join(columns)})"
        )
    found: dict[tuple[str, str, str], Mapping[str, str]] = {}
    for row in rows:
        place = (row.get("split", ""), row.get("class", ""), row[key])
        if place in found:
            raise DebrideError(f"'{path}' has two rows for the image '{row[key]}': remove one")
        found[place] = row
    return Index(tuple(columns), group_column(columns), found)
