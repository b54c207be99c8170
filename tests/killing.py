"""Commands that are killed with SIGKILL at random moments, in processes that start quickly."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RUNNER = """
import os, sys
import debride.workflow, debride.settings, monai.data  # long to load: once
from debride import screens
from debride.cli import main
from debride.planning.search import StepRecord

for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(line.split()))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    code: int
    seconds: float


Run = Callable[..., Ended]


@contextlib.contextmanager
def command_runner(place: Path) -> Iterator[Run]:
    """Give a function that runs a command line in `place`, killed after some seconds if asked."""
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    given, said = runner.stdin, runner.stdout

    def run(line: str, killed_after: float | None = None) -> Ended:
        begun = time.monotonic()
        given.write(f"{line}\n".encode())
        given.flush()
        child = int(said.readline())
        if not select.select([said], [], [], killed_after)[0]:
            os.kill(child, signal.SIGKILL)
        return Ended(int(said.readline()), time.monotonic() - begun)

    yield run
    given.close()
    assert runner.wait() == 0


def kill_at_random(run: Run, line: str, out: Path, *, kills: int) -> Iterator[Path]:
    """Start a command again and again until it was killed so often; yield what came through.

    A finished folder is moved out of the way, so that the command begins anew.
    """
    rng = np.random.default_rng(0)
    lasts = run(line.replace(out.name, f"{out.name}-timed")).seconds
    killed = finished = 0
    while killed < kills:
        ended = run(line, float(rng.uniform(0, 0.6)) * lasts)
        lasts = ended.seconds if ended.code == 0 else lasts  # a machine is not always as busy
        killed += ended.code == -signal.SIGKILL
        assert ended.code in (0, -signal.SIGKILL)
        if (out / "model.json").exists():  # through, perhaps killed just after: once more
            finished += 1
            through = out.parent / f"through{finished}"
            out.rename(through)
            yield through
