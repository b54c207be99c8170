"""Files of a folder that a stranger may have made: plain files only, bounded, checked."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from debride.errors import DebrideError

LARGEST_JSON = 8 << 20
"""Bytes. A plan of a large network has some hundred kilobytes."""


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file.

    Raises
    ------
    DebrideError
        When it cannot be read, or is no plain file.
    """
    try:
        with _opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DebrideError(f"cannot read '{path}': {error.strerror or error}") from None


def read_text(path: Path) -> str:
    """Read a text file of a run's folder.

    Raises
    ------
    DebrideError
        When it is not there, no plain file, not text, or far too large.
    """
    try:
        with _opened(path) as file:
            content = file.read(LARGEST_JSON + 1)
        if len(content) > LARGEST_JSON:
            raise DebrideError(f"'{path}' is larger than any file of its kind: it is not read")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DebrideError(f"cannot read '{path}': {error}") from None


def read_json(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    finite
        Refuse numbers that are not; the losses of a training that failed may be such.

    Raises
    ------
    DebrideError
        When there is no such file, it holds anything else, or a name stands in it twice.
    """
    try:
        content = json.loads(
            read_text(path),
            object_pairs_hook=_unique,
            parse_constant=_number if finite else float,
            parse_float=_number if finite else float,
        )
    except (ValueError, RecursionError) as error:
        raise DebrideError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DebrideError(f"'{path}' is damaged: a JSON object is expected")
    return content


def _opened(path: Path) -> io.BufferedReader:
    """Open a plain file: a link may lead anywhere, a pipe or a device may never end."""
    if path.is_symlink():
        raise DebrideError(f"'{path}' is a link, which is not followed: copy the file itself")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DebrideError(f"'{path}' is not a plain file: copy the folder again")
    return os.fdopen(handle, "rb")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice[:50]}' stands there twice")
    return content


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a number that can be used")
    return value
