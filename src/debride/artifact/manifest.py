"""``model.json``: how to rebuild the network of a folder, checked before it is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from debride.artifact.migration import SCHEMA_VERSION, migrated
from debride.artifact.reading import read_json
from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.models.outputs import Task
from debride.models.spec import ModelSpec

MANIFEST: Final = "model.json"
WEIGHTS: Final = "model.safetensors"
PLAN: Final = "plan.json"
RUN: Final = "run.json"
EVIDENCE: Final = "evidence.json"
Hashed = Literal[
    "model.json",
    "model.safetensors",
    "plan.json",
    "run.json",
    "evidence.json",
    "heatmaps.safetensors",
]
"""The files of results; ``report.html`` and ``predict.py`` are for people, and not read back."""


class Manifest(BaseModel):
    """The content of ``model.json``. It names no files: their names are fixed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
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
    sha256: dict[Hashed, str]
    """Of every file of results that the folder has; of this one, without the entry itself."""

    @model_validator(mode="after")
    def _of_the_weights(self) -> Self:
        if WEIGHTS not in self.sha256:
            raise ValueError("the hash of the weights is missing")
        return self


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``model.json``.

    Raises
    ------
    DebrideError
        When it is not there, not JSON, of a newer version, or a field is not what it should be.
    """
    path = folder / MANIFEST
    if not path.is_file():
        images = (folder / "train").is_dir()
        raise DebrideError(
            f"'{folder}' holds {'images and ' if images else ''}no network: give a folder that "
            f"debride train, prune or save wrote{', and the images as --data' if images else ''}"
        )
    content = read_json(path)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DebrideError(
            f"'{path}' has schema version {version}, this Debride reads up to {SCHEMA_VERSION}: "
            "update Debride"
        )
    try:
        manifest = Manifest.model_validate(migrated(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DebrideError(f"'{path}' is damaged at '{where}': {first['msg']}") from None
    except DebrideError as error:
        raise DebrideError(f"'{path}' is damaged: {error}") from None
    # Version 1 had no hash of its own.
    if version != 1 and manifest.sha256.get(MANIFEST) != own_hash(content):
        raise DebrideError(
            f"'{path}' was changed after it was written (its SHA-256 differs): copy the folder "
            "again from where it was made"
        )
    return manifest


def own_hash(content: Mapping[str, Any]) -> str:
    """Give the SHA-256 of the content of ``model.json`` without the entry of this hash."""
    hashes = {name: each for name, each in content["sha256"].items() if name != MANIFEST}
    text = json.dumps({**content, "sha256": hashes}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
