"""Ctrl-C while libraries load: half-imported modules must not be left to code that goes on."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SOON = 0.05
"""Seconds after which an interrupt that came in the middle of an import is tried again."""


@contextlib.contextmanager
def orderly_interrupts(starter: str) -> Iterator[None]:
    """Turn Ctrl-C into KeyboardInterrupt between imports, never inside of one.

    Libraries catch what is raised while they load, and C extensions lose it: Ctrl-C would go
    unheard, or come out as an odd error later. While `starter` loads a command nothing has been
    done yet, and the process ends at once; in a later import the interrupt waits for its end.

    Parameters
    ----------
    starter
        ``__file__`` of the module whose own imports may be cut short.
    """
    usual = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or usual is not signal.default_int_handler:
        yield  # somebody else's process: its own ways stay
        return

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        importer = _outermost_importer(frame)
        if importer is None:
            raise KeyboardInterrupt
        if importer == starter:
            os.write(2, b"stopped: nothing was written\n")  # print may be what was interrupted
            os._exit(130)
        _thread.start_new_thread(_again, ())  # as bare as can be: no lock that may be held

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _again() -> None:
    time.sleep(SOON)
    _thread.interrupt_main()


def _outermost_importer(frame: FrameType | None) -> str | None:
    """Give the file whose import statement is being carried out, None outside of imports."""
    found, importing = None, False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib"):
            importing = True
        elif importing:
            found, importing = name, False
        frame = frame.f_back
    return found
