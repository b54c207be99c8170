"""``model.json``: how to rebuild the network of a folder, checked before it is believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.models.outputs import Task
from debride.models.spec import ModelSpec

SCHEMA_VERSION = 1
LARGEST_JSON = 64 << 20
"""Bytes. A plan of a large network has some hundred kilobytes."""


class Manifest(BaseModel):
    """The content of ``model.json``. It names no files: their names are fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    spec: ModelSpec | None
    """None for the user's own network, which only the user can build."""
    network: str
    """Class of the network, for the reader."""
    classes: tuple[str, ...]
    task: Task | None
    preprocessing: Preprocessing | None
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    tied: dict[str, str] = Field(default_factory=dict)
    channels_last: tuple[str, ...] = ()
    weights_sha256: str
    plan_sha256: str | None


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``model.json``.

    Raises
    ------
    DebrideError
        When it is not there, not JSON, of a newer version, or a field is not what it should be.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise DebrideError(
            f"'{folder}' holds no network: give a folder that debride train, prune or save wrote"
        )
    content = read_json(path)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DebrideError(
            f"'{path}' has schema version {version}, this Debride reads up to {SCHEMA_VERSION}: "
            "update Debride"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DebrideError(f"'{path}' is damaged at '{where}': {first['msg']}") from None
    except DebrideError as error:
        raise DebrideError(f"'{path}' is damaged: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    DebrideError
        When there is no such file, or it holds anything else.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DebrideError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DebrideError(f"'{path}' is damaged: a JSON object is expected")
    return content


def read_text(path: Path) -> str:
    """Read a text file of a run's folder.

    Raises
    ------
    DebrideError
        When it is not there, not text, or far too large.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise DebrideError(f"'{path}' is larger than any file of its kind: it is not read")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DebrideError(f"cannot read '{path}': {error}") from None


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file.

    Raises
    ------
    DebrideError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DebrideError(f"cannot read '{path}': {error.strerror or error}") from None
