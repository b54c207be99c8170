"""`debride prune` as a search, command by command: the curve, another point, Ctrl-C and kills."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import debride
from debride import screens
from debride.cli import main
from debride.planning.search import StepRecord
from killing import command_runner, kill_at_random

Say = Callable[..., tuple[int, str, str]]

WIDE = """
from torch import nn

def make(outputs, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 40, 3, padding=1, stride=2), nn.BatchNorm2d(40), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, outputs),
    )
"""

SEARCH = (
    "prune --data toy.npz --model wide --trust --max-drop 0.1 --confidence 0.8 --reference 5 "
    "--no-speed --explain 2 --out"
)


@pytest.fixture(scope="session")
def wide(place: Path) -> Path:
    """Train a network with channels enough for a search."""
    (place / "widenet.py").write_text(WIDE)
    line = "train --data toy.npz --model widenet:make --epochs 8 --lr 0.02 --batch-size 16"
    with contextlib.chdir(place):
        assert main([*line.split(), "--out", "wide", "--no-speed", "--explain", "0"]) == 0
    return place / "wide"


@pytest.fixture(scope="session")
def found(wide: Path) -> Path:
    """Search once."""
    with contextlib.chdir(wide.parent):
        assert main([*SEARCH.split(), "found"]) == 0
    return wide.parent / "found"


def _table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))


def test_a_search_writes_its_curve(found: Path) -> None:
    rows = _table(found)
    chosen = [row for row in rows if row["chosen"] == "True"]
    assert len(chosen) == 1
    good = [row for row in rows if row["good"] == "True"]
    assert float(chosen[0]["macs_kept"]) == min(float(row["macs_kept"]) for row in good)
    assert float(chosen[0]["drop_bound"]) <= 0.1
    assert all(float(row["drop_bound"]) > 0.1 for row in rows if row["good"] == "False")
    run = json.loads((found / "run.json").read_text())
    cost = json.loads((found / "evidence.json").read_text())["cost"]
    kept = cost["model"]["macs"] / cost["original"]["macs"]
    assert kept == pytest.approx(float(chosen[0]["macs_kept"]), abs=1e-6)
    assert run["curve"]["evaluations"] > 0
    assert (found / "curve.svg").read_text().count("<circle") == 2 * (len(rows) + 1)
    report = (found / "report.html").read_text()
    assert "What the search found" in report
    assert "How it was pruned" not in report
    assert sorted(file.name for file in (found / "points").glob("*.safetensors")) == [
        f"{step:03}.safetensors" for step in range(1, len(rows))
    ]


@pytest.mark.parametrize(
    ("bound", "said"), [(0.0123, "down by at most 0.0123"), (-0.0222, "up by at least 0.0222")]
)
def test_a_step_says_which_way_the_metric_went(
    bound: float, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    screens.show_step(StepRecord(1, 0.5, 0.5, 0.5, 0.9, 0.9, drop_bound=bound, drift=0.1))
    assert f"{said}, drift 0.100: floor kept" in " ".join(capsys.readouterr().out.split())


def test_another_point_is_taken_without_work_done_twice(
    found: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be scored or cut again")

    monkeypatch.setattr("debride.pruning.score", never)
    monkeypatch.setattr("debride.workflow.cut_in_steps", never)
    code, out, err = say("prune --from found --at 0.7 --trust --no-speed --explain 0 --out other")
    assert code == 0, err
    rows = _table(Path("other"))
    ((step, kept),) = [(r["step"], r["macs_kept"]) for r in rows if r["chosen"] == "True"]
    assert f"step {step} of" in out
    assert max(float(r["macs_kept"]) for r in rows if float(r["macs_kept"]) <= 0.7) == float(kept)
    stored = load_file(found / "points" / f"{int(step):03}.safetensors")
    taken = debride.load(Path("other"), trust=True).state_dict()
    assert all(torch.equal(value, taken[name]) for name, value in stored.items())
    cost = json.loads(Path("other/evidence.json").read_text())["cost"]
    assert cost["model"]["macs"] / cost["original"]["macs"] == pytest.approx(float(kept))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--from found --at 0.0001 --out x", "no visited network keeps 0.0001 of the MACs or less"),
        ("--from wide --at 0.5 --out x", "'wide' is not the folder of a search"),
        ("--from found --out x", "--from and --at go together"),
        ("--from found --at 0.5 --macs 0.5 --out x", "--macs cannot be given with --from"),
        ("--from found --at 0.5 --out found", "holds a finished run"),
    ],
)
def test_a_point_that_is_not_there_is_one_sentence(
    found: Path, say: Say, line: str, words: str
) -> None:
    code, _, err = say(f"prune --trust --no-speed --explain 0 {line}")
    assert (code, words in " ".join(err.split())) == (2, True), err
    assert not Path("x").exists()


def test_the_test_split_is_never_looked_at_during_a_search(
    wide: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from debride.data.images import ImageSource, Record
    from debride.pruning import prune

    searching = False
    read: list[bool] = []
    pixels = ImageSource.pixels

    def watched(source: ImageSource, record: Record) -> object:
        test = any(record is each for each in source.splits["test"])
        assert not (searching and test), "a test image is read during the search"
        read.append(test)
        return pixels(source, record)

    def search(*arguments: object, **options: object) -> object:
        nonlocal searching
        searching = True
        try:
            return prune(*arguments, **options)  # type: ignore[arg-type]
        finally:
            searching = False

    monkeypatch.setattr(ImageSource, "pixels", watched)
    monkeypatch.setattr("debride.workflow.cut_in_steps", search)
    code, _, err = say(SEARCH, "watched")
    assert code == 0, err
    assert True in read, "the result is reported on the test images"


def test_recall_of_a_class_by_its_name(wide: Path, say: Say) -> None:
    code, _, err = say(f"{SEARCH} recalled --metric recall:1")
    assert code == 0, err
    assert "recall of 1" in Path("recalled/report.html").read_text()
    code, _, err = say(f"{SEARCH} unnamed --metric recall:flu")
    assert (code, "no class 'flu': the classes are 0, 1, 2" in err) == (2, True)
    assert not Path("unnamed").exists()


def test_a_floor_that_cannot_be_kept_is_said_and_nothing_is_written(
    wide: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("debride.drift.Drift.__call__", lambda *_: 0.5)
    code, _, err = say(f"{SEARCH} nowhere --max-drift 0.1")
    assert code == 2
    assert "no cut keeps the floor" in err
    assert not Path("nowhere").exists()


def test_ctrl_c_keeps_the_finished_steps(
    found: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from debride.screens import show_step

    def stop(record: debride.planning.search.StepRecord) -> None:  # type: ignore[name-defined]
        show_step(record)
        if record.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("debride.screens.show_step", stop)
        code, _, err = say(SEARCH, "interrupted")
    assert (code, "the finished steps are kept in interrupted; run the same command" in err) == (
        130,
        True,
    )
    assert [entry.name for entry in Path("interrupted").iterdir()] == ["unfinished"]
    code, _, err = say(f"{SEARCH} interrupted --steps 2")
    assert (code, "unfinished pruning with steps left out instead of 2" in err) == (2, True)
    code, out, err = say(SEARCH, "interrupted")
    assert (code, err) == (0, "")
    assert "the 3 steps kept in interrupted" in out
    _same_run(Path("interrupted"), found)


def _same_run(first: Path, second: Path) -> None:
    assert (first / "plan.json").read_text() == (second / "plan.json").read_text()
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (first / "curve.csv").read_text() == (second / "curve.csv").read_text()
    names = [sorted(entry.name for entry in folder.iterdir()) for folder in (first, second)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_twenty_kills_change_nothing(wide: Path) -> None:
    """SIGKILL at random moments of a search, from its first line to the last file it writes."""
    place = wide.parent
    killed = place / "killed"
    with command_runner(place) as run:
        assert run(f"{SEARCH} whole").code == 0
        for through in kill_at_random(run, f"{SEARCH} killed", killed, kills=20):
            _same_run(through, place / "whole")
        if killed.exists():
            assert run(f"{SEARCH} killed").code == 0
            _same_run(killed, place / "whole")
            assert not list((killed / "points").glob(".*"))
