from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from .pictures import save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, 6 training and 2 test images each, grey, 12 rows by 16 columns."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cold", "warm"):
            for number in range(count):
                pixels = rng.integers(0, 256, (12, 16), dtype=np.uint8)
                save(tmp_path / "set" / split / name / f"{split}_{name}_{number}.png", pixels)
    return tmp_path / "set"


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """MedMNIST form: three classes, 10 by 14 pixels."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        made[f"{split}_images"] = rng.integers(0, 256, (count, 10, 14), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 3)[:, None]
    return made


@pytest.fixture
def npz(tmp_path: Path) -> Callable[[dict[str, np.ndarray]], Path]:
    def write(content: dict[str, np.ndarray]) -> Path:
        np.savez_compressed(tmp_path / "some.npz", **content)
        return tmp_path / "some.npz"

    return write


@pytest.fixture
def real() -> Path:
    """The folder of open medical image sets, where there is one."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(os.environ.get("DEBRIDE_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no open image sets in '{path}': set DEBRIDE_DATA")
    return path
