"""Progress with time left, on standard error, only where somebody looks."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def track(
    iterable: Iterable[T], description: str, total: int | None = None
) -> Generator[T, None, None]:
    """Yield from `iterable` while a bar shows how far it is and how long it will take.

    Silent where standard error is not a terminal (unless ``DEBRIDE_PROGRESS=1``).

    Examples
    --------
    >>> sum(track([1, 2, 3], "adding"))
    6
    """
    if not (sys.stderr.isatty() or os.environ.get("DEBRIDE_PROGRESS") == "1"):
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        yield from progress.track(iterable, total=total, description=description)
