"""Ctrl-C at any moment: one line and exit code 130, imports or not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# the first library sends Ctrl-C while it loads, and catches what comes of it
GREEDY = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    loaded = "whole"
except BaseException:
    loaded = "half"
"""
STARTER = """
import signal, sys, time
from debride.interrupts import orderly_interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
try:
    with orderly_interrupts(__file__ if sys.argv[1] == "first" else "elsewhere"):
        import greedy
        time.sleep(5)
except KeyboardInterrupt:
    print("stopped after a", greedy.loaded, "import")
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("when", "out", "err"),
    [
        ("first", "", "stopped: nothing was written\n"),
        ("later", "stopped after a whole import\n", ""),
    ],
)
def test_ctrl_c_in_an_import_is_neither_lost_nor_odd(
    when: str, out: str, err: str, tmp_path: Path
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    (tmp_path / "starter.py").write_text(STARTER)
    done = subprocess.run(
        [sys.executable, "starter.py", when], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, out, err)


def test_handlers_are_put_back() -> None:
    from debride.interrupts import orderly_interrupts

    before = signal.getsignal(signal.SIGINT)
    with orderly_interrupts("cli.py"):
        pass
    assert signal.getsignal(signal.SIGINT) is before
