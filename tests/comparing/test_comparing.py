"""`debride compare` as a user runs it, on the tiny network of the tests of the commands."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import Say
from debride.comparing import running
from debride.comparing.grid import Cell
from debride.pruning import prune


def _grid(place: Path, name: str, **changes: Any) -> Path:
    grid = {
        "networks": {"tiny": {"model": str(place.parent / "base")}},
        "data": {"toy": {"data": "toy.npz"}},
        "criteria": {"lrp": {}, "magnitude": {}},
        "budgets": [0.8, 0.5, 0.3],
        "common": {"recovery": "batchnorm", "reference": 5},
        **changes,
    }
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    return path


def _cell(place: Path, out: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / out / "cells" / f"{name}.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    place = base.parent / "compared"  # a folder of its own: other tests write beside it
    place.mkdir()
    return place


def test_a_grid_is_worked_on_and_not_again(say: Say, trained: Path) -> None:
    criteria = {
        "lrp": {},
        "shot": {"criterion": "lrp", "one_shot": True},
        "tuned": {"criterion": "lrp", "finetune": 1, "finetune_at": [0.3]},
    }
    grid = _grid(trained, "gridded", criteria=criteria, seeds=[0, 1])
    line = f"compare --grid {grid} --out compared/gridded --trust"
    code, out, err = say(line)
    assert code == 0, err
    assert "6 of 6" in out
    rows = list(csv.DictReader((trained / "gridded" / "results.csv").open()))
    assert len(rows) == 2 * (3 * 4 + 1)
    for row in rows:
        assert float(row["macs_kept"]) == pytest.approx(float(row["budget"]), abs=0.01)
    stepwise = _cell(trained, "gridded", "tiny-toy-0/lrp")["points"]
    shot = _cell(trained, "gridded", "tiny-toy-0/shot")["points"]
    tuned = _cell(trained, "gridded", "tiny-toy-0/tuned")["points"]
    assert [point["budget"] for point in shot] == [1.0, 0.8, 0.5, 0.3]
    # the first cut is the same, whatever comes after
    assert stepwise[1] == {**shot[1], "step": 1} == tuned[1]
    assert stepwise[3] == {**tuned[3], "finetuned": None}
    assert tuned[3]["finetuned"]["epochs"] == 1
    whole, smallest = stepwise[0], stepwise[3]
    assert (whole["same_decisions"], whole["heatmaps"]) == (1.0, pytest.approx(1.0))
    # of 30 images; wrong on some and right as before on the others
    changed = 30 * (1 - smallest["same_decisions"])
    assert changed == pytest.approx(round(changed))
    assert changed >= 29.99 * (whole["test"]["accuracy"] - smallest["test"]["accuracy"])
    assert -1 <= smallest["heatmaps"] < 1
    page = (trained / "gridded" / "comparison.md").read_text()
    assert "## tiny, toy" in page
    assert "| tuned, fine-tuned | 2 |" in page
    assert (trained / "gridded" / "figures" / "tiny-toy.svg").read_text().count("<svg") == 1
    assert not list((trained / "gridded" / "cells" / "tiny-toy-0").glob("*/"))

    before = (trained / "gridded" / "results.csv").read_text()
    code, out, _ = say(line)
    assert code == 0
    assert "6 done, 0 to work on" in out
    assert (trained / "gridded" / "results.csv").read_text() == before


def test_names_with_a_dot_have_files_of_their_own(say: Say, trained: Path) -> None:
    criteria = {f"floor0.{k}": {"criterion": "magnitude", "floor": k / 10} for k in (1, 2)}
    grid = _grid(trained, "dotted", criteria=criteria, budgets=[0.8])
    line = f"compare --grid {grid} --out compared/dotted --trust"
    assert say(line)[0] == 0
    names = sorted(path.name for path in (trained / "dotted/cells/tiny-toy-0").iterdir())
    assert names == ["floor0.1.json", "floor0.2.json"]
    code, out, _ = say(line)
    assert (code, "2 done, 0 to work on" in out) == (0, True)


def test_networks_of_the_grid_are_trained_once_for_each_seed(say: Say, trained: Path) -> None:
    network = {"model": "tinynet:make", "epochs": 3, "lr": 0.02, "batch_size": 16}
    grid = _grid(trained, "fresh", networks={"fresh": network}, budgets=[0.5], seeds=[0, 1])
    line = f"compare --grid {grid} --out compared/fresh"
    code, out, err = say(line)
    assert code == 0, err
    assert out.count("trained    fresh-toy") == 2
    stored = [
        json.loads((trained / "fresh" / "bases" / f"fresh-toy-{seed}" / "run.json").read_text())
        for seed in (0, 1)
    ]
    assert [run["seed"] for run in stored] == [0, 1]
    network["epochs"] = 4
    _grid(trained, "fresh", networks={"fresh": network}, budgets=[0.4], seeds=[0])
    code, _, err = say(f"{line} --only *-0/lrp")
    assert code == 2
    assert "was made with budgets [0.5], the grid says [0.4]" in err


def test_what_was_interrupted_goes_on(say: Say, trained: Path, monkeypatch: Any) -> None:
    grid = _grid(trained, "halted")
    line = f"compare --grid {grid} --out compared/halted --trust"
    steps: list[int] = []

    def interrupted(*given: Any, on_network: Any, **more: Any) -> Any:
        def look(record: Any, *rest: Any) -> None:
            steps.append(record.step)
            on_network(record, *rest)
            if record.step == 2 and len(steps) == 3:
                raise KeyboardInterrupt

        return prune(*given, on_network=look, **more)

    monkeypatch.setattr("debride.comparing.cells.prune", interrupted)
    code, _, err = say(line)
    assert code == 130
    assert "run the same command again to go on" in err
    code, _, err = say(line)
    assert code == 0, err
    assert steps[:5] == [0, 1, 2, 2, 3]
    straight = _grid(trained, "straight", criteria=["lrp"])
    assert say(f"compare --grid {straight} --out compared/straight --trust")[0] == 0
    assert (
        _cell(trained, "halted", "tiny-toy-0/lrp")["points"]
        == _cell(trained, "straight", "tiny-toy-0/lrp")["points"]
    )


def test_an_unfinished_cell_of_other_settings_is_not_taken(
    say: Say, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = {"criterion": "lrp", "one_shot": True}
    grid = _grid(trained, "other", criteria={"shot": shot})
    line = f"compare --grid {grid} --out compared/other --trust"
    calls: list[Any] = []

    def once(*given: Any, **more: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(more["macs"])
        return prune(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr("debride.comparing.cells.prune", once)
        assert say(line)[0] == 130
    assert calls == [(0.8,)]
    _grid(trained, "other", criteria={"shot": {**shot, "reference": 4}})
    code, _, err = say(line)
    assert code == 2
    assert "tiny-toy-0/shot' was made with reference 5, the grid says 4: delete it" in err
    _grid(trained, "other", criteria={"shot": shot})
    kept = trained / "other/cells/tiny-toy-0/shot/visits.json"
    found = kept.read_text()
    kept.write_text(json.dumps({**json.loads(found), "network_sha256": "other"}))
    code, _, err = say(line)
    assert (code, "shot' was made of another network than" in err) == (2, True), err
    kept.write_text(found)
    assert say(line)[0] == 0
    assert len(_cell(trained, "other", "tiny-toy-0/shot")["points"]) == 4


def test_a_cell_that_fails_leaves_the_others(say: Say, trained: Path) -> None:
    criteria = {"lrp": {}, "fine": {"criterion": "magnitude", "protect": ["nothing.*"]}}
    grid = _grid(trained, "failing", criteria=criteria)
    code, out, err = say(f"compare --grid {grid} --out compared/failing --trust")
    assert code == 2
    assert "tiny-toy-0/fine: " in err
    assert "1 piece of work failed (tiny-toy-0/fine): mend" in err
    assert "what is done is kept" in err
    assert "tiny-toy-0/lrp" in out
    assert (trained / "failing" / "comparison.md").is_file()


def test_networks_that_nothing_can_be_said_of(
    say: Say, trained: Path, half: Path, monkeypatch: Any
) -> None:
    grid = _grid(trained, "cut", networks={"cut": {"model": str(half)}}, criteria=["lrp"])
    code, _, err = say(f"compare --grid {grid} --out compared/cut --trust")
    assert (code, "is already pruned" in err) == (2, True)
    grid = _grid(trained, "weak", criteria=["lrp"])
    monkeypatch.setattr("debride.checks.Z99", 1e3)  # nothing is better than so much chance
    code, _, err = say(f"compare --grid {grid} --out compared/weak --trust")
    assert (code, "is no better than chance on the validation images" in err) == (2, True)


def test_what_is_not_there_is_said_before_anything_is_trained(say: Say, trained: Path) -> None:
    network = {"new": {"model": "tinynet:make", "epochs": 1}}
    for criteria, words in (
        ({"lrp": {}, "magnitud": {}}, "criterion 'magnitud': no criterion 'magnitud'"),
        ({"lrp": {"rules": "epsilo"}}, "epsilon"),
        ({"lrp": {"reference_strategy": "best"}}, "best"),
        ({"lrp": {"option": {"aggregat": "abs"}}}, "aggregat"),
    ):
        grid = _grid(trained, "typo", networks=network, criteria=criteria)
        code, _, err = say(f"compare --grid {grid} --out compared/typo --trust")
        assert (code, words in err) == (2, True), err
    new = {"model": "tinynet:make", "epochs": 1}
    for kind, name, entry, words in (
        ("data", "gone", {"data": "no/such/folder"}, "data 'gone': no file or folder"),
        ("networks", "gone", {"model": "runs/bas"}, "network 'gone': no folder 'runs/bas'"),
        ("networks", "gone", {"model": "bas"}, "network 'gone': no folder 'bas'"),
        ("networks", "gone", {"model": "timm:resnet17"}, "network 'gone': timm has no network"),
    ):
        whole = {"networks": {"new": new}, "data": {"toy": {"data": "toy.npz"}}}
        whole[kind] = {**whole[kind], name: entry}
        grid = _grid(trained, "typo", **whole, criteria=["lrp"])
        code, _, err = say(f"compare --grid {grid} --out compared/typo --trust")
        assert (code, words in err) == (2, True), err
    assert not (trained / "typo").exists()


def test_other_images_are_noticed(say: Say, trained: Path) -> None:
    network = {"new": {"model": "tinynet:make", "epochs": 2, "lr": 0.02, "batch_size": 16}}
    changes: dict[str, Any] = {"networks": network, "criteria": ["magnitude"], "budgets": [0.8]}
    line = "compare --out compared/images --trust --grid"
    assert say(line, _grid(trained, "images", **changes))[0] == 0
    with np.load("toy.npz") as arrays:
        darker = {k: v // 2 if k.endswith("images") else v for k, v in arrays.items()}
    np.savez("darker.npz", **darker)
    other = _grid(trained, "images", **changes, data={"toy": {"data": "darker.npz"}})
    code, _, err = say(line, other)
    assert code == 2
    assert "magnitude.json' was made with images {'data': 'toy.npz'}, the grid says" in err
    (trained / "images/cells/new-toy-0/magnitude.json").unlink()
    code, _, err = say(line, other)
    assert (code, "was trained on other images than those of 'toy' are now" in err) == (2, True)


def test_cells_of_two_networks_or_images_are_not_put_together(
    say: Say, trained: Path, base: Path
) -> None:
    own = trained / "own"
    shutil.copytree(base, own)
    changes: dict[str, Any] = {
        "networks": {"own": {"model": str(own)}},
        "data": {"toy": {"data": "mine.npz"}},
        "budgets": [0.8],
    }
    shutil.copy("toy.npz", "mine.npz")
    line = "compare --out compared/mixed --trust --grid"
    assert say(line, _grid(trained, "mixed", **changes, criteria=["magnitude"]))[0] == 0
    both = _grid(trained, "mixed", **changes, criteria=["magnitude", "random"])
    with np.load("toy.npz") as arrays:
        np.savez("mine.npz", **{k: v[:-3] for k, v in arrays.items()})
    code, _, err = say(line, both)
    assert (code, "made of other images than those of 'toy' are now" in err) == (2, True), err
    assert "random" not in (trained / "mixed" / "results.csv").read_text()
    shutil.copy("toy.npz", "mine.npz")
    shutil.rmtree(own)
    more = "--model tinynet:make --epochs 5 --lr 0.02 --batch-size 16 --no-speed --explain 0"
    assert say(f"train --data toy.npz {more} --out {own}")[0] == 0
    code, _, err = say(line, both)
    assert (code, f"made of another network than '{own}' is now" in err) == (2, True), err


def test_a_network_that_cannot_be_trained_takes_its_cells_along(say: Say, trained: Path) -> None:
    grid = _grid(trained, "untrained", networks={"none": {"model": "tinynet:missing"}})
    code, _, err = say(f"compare --grid {grid} --out compared/untrained")
    assert code == 2
    assert "none-toy-0: " in err
    assert "missing" in err
    assert "1 piece of work failed (none-toy-0)" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--only nothing", "no cell fits --only 'nothing': they are called as 'tiny-toy-0/lrp' is"),
        ("--collect", "no cell is done yet"),
        ("--seed 3", "No such option: --seed"),
        ("--ray-address auto", "--ray-address is for --ray"),
        ("--workers 0", "--workers"),
    ],
)
def test_flags_that_mean_nothing(say: Say, trained: Path, flags: str, words: str) -> None:
    grid = _grid(trained, "flags")
    code, _, err = say(f"compare --grid {grid} --out compared/nowhere --trust {flags}")
    assert code == 2
    assert words in err
    assert not (trained / "nowhere").exists()


def test_a_folder_of_somebody_else_is_left_alone(say: Say, trained: Path) -> None:
    grid = _grid(trained, "flags")
    (trained / "letters").mkdir()
    (trained / "letters" / "dear.txt").write_text("...")
    code, _, err = say(f"compare --grid {grid} --out compared/letters --trust")
    assert code == 2
    assert "holds something that is not Debride's" in err


def test_a_damaged_cell_is_named(say: Say, trained: Path) -> None:
    grid = _grid(trained, "damaged")
    path = trained / "damaged" / "cells" / "tiny-toy-0" / "lrp.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    code, _, err = say(f"compare --grid {grid} --out compared/damaged --trust")
    assert code == 2
    assert "lrp.json' is damaged" in err
    assert "delete it to make it anew" in err


def test_cells_wait_for_their_network_and_others_do_not(trained: Path, monkeypatch: Any) -> None:
    """With two at once, the second study is trained beside the first, before its cells."""
    import threading

    from debride.comparing.grid import cells_of, read_grid
    from debride.comparing.workers import Workers

    network = {"model": "tinynet:make", "epochs": 1}
    grid = read_grid(_grid(trained, "order", networks={"x": network, "y": network}))
    order: list[str] = []
    lock = threading.Lock()

    def note(thing: Any) -> dict[str, Any]:
        with lock:
            order.append(thing.name)
        return {}

    monkeypatch.setattr(running, "train", note)
    monkeypatch.setattr(running, "run", note)
    monkeypatch.setattr(running, "_tell", lambda *_: None)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        cells = cells_of(grid, trained / "order")
        found: list[tuple[Cell, Any]] = list(running.work(cells, Workers(pool.submit, 2), print))
    assert {cell.name for cell, _ in found} == {cell.name for cell in cells}
    for study in ("x-toy-0", "y-toy-0"):
        assert order.index(study) < min(order.index(f"{study}/{c}") for c in ("lrp", "magnitude"))
    assert set(order[:2]) == {"x-toy-0", "y-toy-0"}


def test_a_process_that_was_killed_is_a_failure_like_others(trained: Path) -> None:
    from concurrent.futures.process import BrokenProcessPool

    from debride.comparing.grid import cells_of, read_grid
    from debride.comparing.workers import Workers

    def submit(function: Any, argument: Any) -> Any:
        raise BrokenProcessPool("a process in the pool was terminated")

    cells = cells_of(read_grid(_grid(trained, "killed")), trained / "killed")
    failed: list[str] = []
    assert list(running.work(cells, Workers(submit, 1), failed.append)) == []
    assert [each.partition(": ")[0] for each in failed] == [
        "tiny-toy-0/lrp",
        "tiny-toy-0/magnitude",
    ]


@pytest.mark.slow
def test_workers_end_with_their_parent_and_a_failure_can_be_mended(
    say: Say, trained: Path, tmp_path: Path
) -> None:
    grid = _grid(trained, "mended", data={"toy": {"data": "nowhere.npz"}})
    line = f"compare --grid {grid} --out compared/mended --trust --workers 2"
    assert say(line)[0] == 2
    _grid(trained, "mended")
    code, _, err = say(line)
    assert code == 0, err
    script = (
        "import time\n"
        "from pathlib import Path\n"
        "from debride.comparing.workers import processes\n"
        "if __name__ == '__main__':\n"
        f"    with processes(1, Path({str(tmp_path)!r})) as workers:\n"
        "        workers.submit(time.sleep, 600).result()\n"
    )
    (tmp_path / "main.py").write_text(script)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")])
    while not (logs := list(tmp_path.glob("*.txt"))):
        time.sleep(0.2)
    worker = Path("/proc") / logs[0].stem
    assert worker.exists()
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while worker.exists() and "zombie" not in (worker / "status").read_text():
        assert time.monotonic() < until, "the worker outlives its parent"
        time.sleep(0.2)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(say: Say, trained: Path) -> None:
    grid = _grid(trained, "two")
    for out, workers in (("one", 1), ("two", 2)):
        code, _, err = say(
            f"compare --grid {grid} --out compared/{out} --trust --workers {workers}"
        )
        assert code == 0, err
    for name in ("tiny-toy-0/lrp", "tiny-toy-0/magnitude"):
        one, two = (_cell(trained, out, name)["points"] for out in ("one", "two"))
        assert len(one) == 4
        for before, after in zip(one, two, strict=True):
            # other numbers of threads add up in another order
            assert before["macs_kept"] == pytest.approx(after["macs_kept"], abs=0.01)
            assert before["test"]["accuracy"] == pytest.approx(after["test"]["accuracy"], abs=0.04)


@pytest.mark.slow
def test_ray_finds_what_one_process_finds(say: Say, trained: Path) -> None:
    pytest.importorskip("ray", reason="Ray is the optional extra 'ray'")
    grid = _grid(trained, "ray", criteria=["magnitude"])
    for out, flags in (("alone", ""), ("ray", "--ray")):
        code, _, err = say(f"compare --grid {grid} --out compared/{out} --trust {flags}")
        assert code == 0, err
    alone, ray = (_cell(trained, out, "tiny-toy-0/magnitude")["points"] for out in ("alone", "ray"))
    assert [p["test"]["accuracy"] for p in alone] == pytest.approx(
        [p["test"]["accuracy"] for p in ray], abs=0.04
    )
