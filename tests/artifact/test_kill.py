"""A process that is killed while it saves leaves the old network, the new one, or none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from debride.artifact.bundle import load, write_bundle

KILLS = 20


def filled(value: float) -> nn.Module:
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def write(folder: Path, value: float) -> None:
    write_bundle(
        folder,
        filled(value),
        spec=None,
        preprocessing=None,
        classes=(),
        task=None,
        run={"value": value},
    )


def values(folder: Path) -> set[float]:
    model = load(folder, filled(0))
    return {
        float(value) for parameter in model.parameters() for value in parameter.detach().unique()
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_kill_at_any_moment_leaves_a_whole_folder_or_none(tmp_path: Path):
    folder = tmp_path / "run"
    begin = time.perf_counter()
    for value in (1.0, 2.0):
        write(folder, value)
    duration = (time.perf_counter() - begin) / 2
    assert values(folder) == {2.0}
    rng = random.Random(0)
    found, seen = {2.0}, set()
    for kill in range(3 * KILLS):
        if kill >= KILLS and len(seen) == 2:
            break
        child = os.fork()
        if child == 0:
            try:
                while True:
                    for value in (1.0, 2.0) if found == {2.0} else (2.0, 1.0):
                        write(folder, value)
            finally:
                os._exit(1)
        # a machine that is busy meanwhile writes more slowly than it did at first
        time.sleep(rng.uniform(0, (4 + kill) * duration))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "the child ended by itself"
        # Between two renames nothing has the name; the old folder then stands beside it, whole.
        asides = list(tmp_path.glob(".run.old.*"))
        there = folder if folder.exists() else asides[0]
        found = values(there)
        assert found in ({1.0}, {2.0})
        seen |= found
        for hidden in tmp_path.glob(".run.*"):
            if hidden != there:
                shutil.rmtree(hidden)
    assert seen == {1.0, 2.0}
