"""Older forms of ``model.json``, brought to the present one version at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]
Migration = Callable[[Content], Content]

SCHEMA_VERSION = 2

_MIGRATIONS: dict[int, Migration] = {}


def migration(version: int) -> Callable[[Migration], Migration]:
    """Register the function that turns a content of `version` into one of the next."""

    def register(function: Migration) -> Migration:
        _MIGRATIONS[version] = function
        return function

    return register


def migrated(content: Content) -> Content:
    """Give the content in the present form; one that no migration knows stays as it is.

    Examples
    --------
    >>> migrated({"schema_version": 1, "weights_sha256": "ab", "plan_sha256": None})
    {'schema_version': 2, 'sha256': {'model.safetensors': 'ab'}}
    """
    version = content.get("schema_version")
    while type(version) is int and version in _MIGRATIONS:
        content = {**_MIGRATIONS[version](dict(content)), "schema_version": version + 1}
        version += 1
    return content


@migration(1)
def _hash_of_every_file(content: Content) -> Content:
    """Version 1 had a field for the hash of the weights and one for the plan's, and no other."""
    hashes = {
        "model.safetensors": content.pop("weights_sha256", None),
        "plan.json": content.pop("plan_sha256", None),
    }
    return {**content, "sha256": {name: each for name, each in hashes.items() if each is not None}}
