from __future__ import annotations

from pathlib import Path

import pytest

from debride.data import ImageSource, open_images, registry
from debride.errors import DebrideError


def test_own_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    open_images("phantom:30")  # so that the sources of the house are registered already
    monkeypatch.setattr(registry, "_OPENERS", dict(registry._OPENERS))

    @registry.register_source(".scan.gz")
    @registry.register_source("ours")
    def open_ours(rest: str, options: registry.OpenOptions) -> ImageSource:
        return open_images(f"phantom:{40 + len(rest)}", seed=options.seed)

    assert open_images("ours:ab").name == "phantom:42"
    (tmp_path / "a.scan.gz").touch()
    assert open_images(tmp_path / "a.scan.gz", seed=1).name.startswith("phantom:")
    with pytest.raises(ValueError, match="already registered for 'ours'"):
        registry.register_source("ours")(open_ours)


@pytest.mark.parametrize("spec", ["", " "])
def test_no_name_is_not_the_present_folder(spec: str) -> None:
    with pytest.raises(DebrideError, match="no images are named"):
        open_images(spec)


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").touch()
    with pytest.raises(DebrideError, match=r"'.*a.xyz' is of a kind .*\.csv, \.npz"):
        open_images(tmp_path / "a.xyz")
