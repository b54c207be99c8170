from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from debride.data import open_images
from debride.errors import DebrideError


@pytest.fixture
def package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> SimpleNamespace:
    """A package of MedMNIST's form whose download works when `online`."""
    made = SimpleNamespace(online=True)

    def download(*, split: str, download: bool, root: str, size: int) -> None:
        print("downloading")
        if not made.online:
            raise RuntimeError("Automatic download failed!")
        np.savez(Path(root) / ("tiny.npz" if size == 28 else f"tiny_{size}.npz"), **arrays)

    made.Tiny = download
    label = {"0": "none", "1": "some", "2": "much"}
    info: dict[str, Any] = {"python_class": "Tiny", "label": label, "url": "https://host/tiny.npz"}
    made.INFO = {"tiny": {**info, "url_64": "https://host/tiny_64.npz"}}
    monkeypatch.setitem(sys.modules, "medmnist", made)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return made


def test_downloads_with_names(package: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_images("medmnist:tiny@64")
    assert source.name == "medmnist:tiny@64"
    assert source.classes == ("none", "some", "much")
    assert capsys.readouterr().out == ""


def test_says_what_to_do_offline(package: SimpleNamespace) -> None:
    package.online = False
    with pytest.raises(
        DebrideError, match=r"'tiny.npz'.*elsewhere from https://host/tiny.npz .*path of the file"
    ):
        open_images("medmnist:tiny")


def test_names_and_sizes(package: SimpleNamespace) -> None:
    with pytest.raises(DebrideError, match="no 'tinny': it has tiny"):
        open_images("medmnist:tinny")
    with pytest.raises(DebrideError, match="no size '99': it has 28, 64"):
        open_images("medmnist:tiny@99")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(
        DebrideError, match=r"pip install 'debride\[medmnist\]', or download tiny.npz"
    ):
        open_images("medmnist:tiny")
