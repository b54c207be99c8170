"""Who does the work of a comparison: this process, several processes, or Ray."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from debride.errors import DebrideError


@dataclass(frozen=True)
class Workers:
    """Somebody to hand work to.

    Attributes
    ----------
    submit : callable
        (function, argument) → Future.
    width : int
        How much is worked on at once.
    """

    submit: Callable[[Callable[[Any], Any], Any], Future[Any]]
    width: int


@contextlib.contextmanager
def this_process() -> Iterator[Workers]:
    """Work here, one after the other.

    Examples
    --------
    >>> with this_process() as workers:
    ...     workers.submit(abs, -2).result()
    2
    """

    def submit(function: Callable[[Any], Any], argument: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(argument))
        except Exception as error:  # Ctrl-C is none: it ends the comparison
            future.set_exception(error)
        return future

    yield Workers(submit, 1)


@contextlib.contextmanager
def processes(count: int, log: Path) -> Iterator[Workers]:
    """Work in `count` processes, each with its part of the cores; what they print goes to `log`."""
    threads = max(1, (os.cpu_count() or count) // count)
    try:
        log.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DebrideError(
            f"cannot write in '{log.parent}' ({error.strerror}): give another --out"
        ) from None
    begin = (threads, str(log), os.getpid())
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, begin)
    try:
        yield Workers(pool.submit, count)
    except BaseException:
        for process in active_children():  # what they are at is kept, budget by budget
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _begin(threads: int, log: str, parent: int) -> None:
    """Make a process ready: its threads, a file for what it prints, its end with its parent."""
    import sys

    import torch

    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    file = (Path(log) / f"{os.getpid()}.txt").open("a", buffering=1, encoding="utf-8")
    sys.stdout = sys.stderr = file


def _end_with(parent: int) -> None:
    """End this process soon after its parent was killed; it would hold a cell that others take."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[Workers]:
    """Work wherever Ray finds a place: locally, or on the cluster at `address`.

    Raises
    ------
    DebrideError
        When Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise DebrideError("--ray needs Ray: pip install 'debride[ray]'") from None
    theirs = ray.is_initialized()
    try:
        if not theirs:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # whatever Ray raises where nobody answers
        said = " ".join(str(error).split())[:200]
        raise DebrideError(f"no Ray cluster at '{address}': {said}") from None
    try:
        width = max(1, int(ray.cluster_resources().get("CPU", 1)))
        remote: dict[Any, Any] = {}

        def submit(function: Callable[[Any], Any], argument: Any) -> Future[Any]:
            if function not in remote:
                remote[function] = ray.remote(num_cpus=1, max_retries=0)(function)
            future: Future[Any] = remote[function].remote(argument).future()
            return future

        yield Workers(submit, width)
    finally:
        if not theirs:
            ray.shutdown()
