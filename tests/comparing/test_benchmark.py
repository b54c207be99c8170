from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compression import HERE, overall, written
from debride.comparing.grid import cells_of, read_grid
from debride.comparing.summary import lines_of, rows_of

from .test_summary import CELLS


@pytest.mark.parametrize(
    ("name", "cells"), [("compression", 40), ("ablations", 140), ("targets", 10)]
)
def test_the_grids_of_the_benchmark_can_be_spanned(name: str, cells: int, tmp_path: Path) -> None:
    assert len(cells_of(read_grid(HERE / f"{name}.yaml"), tmp_path)) == cells


def test_the_page_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.DOCS", tmp_path)
    timed = [{**cell, "seconds": {"total": 1800.0}} for cell in CELLS]
    some = {"cells": timed, "missing": ["net-scans-2/good"]}
    page = written({"compression": some, "ablations": {"cells": [], "missing": ["a"]}})
    assert "3 of 4 cells, 1.5 hours of one core." in page
    assert "Not made yet:\n\n- net-scans-2: good\n" in page
    assert (tmp_path / "figures" / "compression" / "net-scans.svg").is_file()


def test_the_mean_is_over_what_all_criteria_have() -> None:
    more = [{**cell, "data": "more"} for cell in CELLS[:2]]
    table = overall(lines_of(rows_of([*CELLS, *more])))
    assert table[4].startswith("| good | 65 % | 1.0 |")
    assert table[4].endswith("| 63 % | 1.5 | 0.70 |")
    assert table[5].endswith("|  |  |  |"), "a fine-tuned network is no curve"
    assert table[5].startswith("| good, fine-tuned | 80 % | 2.0 |")
    assert len(table) == 6, "the bad one has results on one of two data sets"


@pytest.mark.slow
def test_the_quick_form_of_the_benchmark(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "compression.py"), "--quick"],
        capture_output=True, text=True, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| lrp \| 1 \| (0|30|60) % \|", done.stdout)
    assert "no better than chance" not in done.stderr
