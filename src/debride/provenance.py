"""What made a result: settings, versions, machine, data and time, for ``run.json``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

import debride
from debride.config import Settings

if TYPE_CHECKING:
    from debride.data.images import ImageSource

PACKAGES = ("torchvision", "timm", "monai", "numpy", "scikit-learn")


class Stopwatch:
    """Seconds spent in each part of a run.

    Examples
    --------
    >>> watch = Stopwatch()
    >>> with watch.part("reading"):
    ...     pass
    >>> sorted(watch.seconds())
    ['reading', 'total']
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self._start = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a block under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Give the seconds of each part so far, and in total."""
        parts = {**self._parts, "total": time.perf_counter() - self._start}
        return {name: round(value, 3) for name, value in parts.items()}


def collect(
    command: str,
    settings: Settings,
    watch: Stopwatch,
    *,
    source: ImageSource | None = None,
    device: torch.device | None = None,
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collect what it takes to understand and repeat a run.

    Parameters
    ----------
    command
        Name of the command.
    settings
        The resolved settings.
    watch
        Started when the command was.
    source
        The images; their names stay out, only counts and a hash go in.
    device
        Where it was computed.
    results
        Further entries, such as the history of a pruning.

    Returns
    -------
    dict
        JSON types only.

    Examples
    --------
    >>> collect("demo", Settings(), Stopwatch())["settings"]
    {'seed': 0, 'device': 'auto'}
    """
    run: dict[str, Any] = {
        "schema_version": 1,
        "command": command,
        "command_line": shlex.join(["debride", *sys.argv[1:]]),
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": _device(device),
        },
        "started": watch.started.isoformat(timespec="seconds"),
    }
    if source is not None:
        run["data"] = {
            "name": source.name,
            "sha256": source.fingerprint(),
            "classes": list(source.classes),
            "images": {split: len(records) for split, records in source.splits.items()},
            "unreadable": len(source.skipped),
            "drawn": source.drawn,
        }
    return {**run, **(results or {}), "seconds": watch.seconds()}


def _device(device: torch.device | None) -> str | None:
    if device is not None and device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return None if device is None else str(device)


def versions() -> dict[str, str]:
    """Give the versions of Debride, Python and the libraries that numbers depend on.

    Examples
    --------
    >>> versions()["debride"]
    '0.1.0'
    """
    found = {
        "debride": debride.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with its build, which the package's version lacks
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
