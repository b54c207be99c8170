"""A toy data set and tiny networks, trained and halved once, for the tests of the commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from debride.cli import main

Say = Callable[..., tuple[int, str, str]]

NETWORK = """
from torch import nn

def make(outputs, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, outputs),
    )
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a tiny network and images that are dark, bright or striped."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tinynet.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 90), ("val", 45), ("test", 30)):
        labels = np.arange(count) % 3
        images = rng.normal(80, 15, (count, 16, 16))
        images[labels == 1] += 60
        images[labels == 2, ::2] += 120
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(folder / "toy.npz", **arrays)
    return folder


@pytest.fixture
def say(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command line in that folder; give exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(place)

    def run(line: str = "", *more: object) -> tuple[int, str, str]:
        words = [*line.split(), *(str(word) for word in more)]
        monkeypatch.setattr(sys, "argv", ["debride", *words])
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def base(place: Path) -> Path:
    """Train the tiny network once."""
    line = "train --data toy.npz --model tinynet:make --epochs 12 --lr 0.02 --batch-size 16 "
    with contextlib.chdir(place):
        assert main([*line.split(), "--out", "base", "--no-speed", "--explain", "2"]) == 0
    return place / "base"


@pytest.fixture(scope="session")
def half(base: Path) -> Path:
    """Halve it once."""
    line = "prune --data toy.npz --model base --trust --out half --steps 2 --reference 5 --no-speed"
    with contextlib.chdir(base.parent):
        assert main([*line.split(), "--explain", "3"]) == 0
    return base.parent / "half"
