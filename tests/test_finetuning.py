"""Fine-tuning and reference samples as flags: what is recorded, resumed and refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import debride
from debride.drift import Drift
from debride.errors import DebrideError
from debride.learning import EpochRecord
from debride.settings import ApplySettings, PruneSettings
from killing import command_runner, kill_at_random

Say = Callable[..., tuple[int, str, str]]

PRUNE = (
    "prune --data toy.npz --model base --trust --steps 1 --reference 5 --no-speed --explain 0 "
    "--batch-size 16 "
)


def _run(folder: str) -> dict:
    return json.loads(Path(folder, "run.json").read_text())


def _same_weights(first: str, second: str) -> bool:
    one, other = (load_file(Path(folder, "model.safetensors")) for folder in (first, second))
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_fine_tuned_network_says_how_it_came_about(base: Path, say: Say) -> None:
    code, out, err = say(f"{PRUNE} --macs 0.4 --finetune 3 --finetune-lr 0.01 --out tuned")
    assert (code, err) == (0, "")
    run = _run("tuned")
    tuned = run["finetuning"]
    assert [epoch["epoch"] for epoch in tuned["history"]] == [1, 2, 3]
    assert run["settings"]["finetune_lr"] == tuned["settings"]["rate"] == 0.01
    assert run["seconds"]["pruning"] > 0
    assert tuned["before"] == run["history"][-1]["after_recovery"]
    assert tuned["after"] == pytest.approx(run["validation"]["model"])
    nearest = min(tuned["history"], key=lambda epoch: epoch["validation_loss"])
    assert tuned["best_epoch"] in (0, nearest["epoch"])
    assert "epoch 3" in out
    assert "finetuned" in out
    assert "How it was fine-tuned" in Path("tuned/report.html").read_text()
    assert not Path("tuned/resume.safetensors").exists()
    code, _, _ = say(f"{PRUNE} --macs 0.4 --out plain")
    assert code == 0
    assert Path("plain/plan.json").read_text() == Path("tuned/plan.json").read_text()
    assert "fine-tuned" not in Path("plain/report.html").read_text()
    assert not _same_weights("plain", "tuned") or tuned["best_epoch"] == 0


def _stopping(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(metric: str) -> Callable[[EpochRecord], None]:
        def stop(record: EpochRecord) -> None:
            if record.epoch == after:
                raise KeyboardInterrupt

        return stop

    monkeypatch.setattr("debride.workflow.tell_epoch", tell)
    monkeypatch.setattr("debride.finetuning.tell", tell)


@pytest.mark.parametrize("command", ["prune", "apply"])
def test_ctrl_c_in_fine_tuning_changes_nothing(
    base: Path, half: Path, say: Say, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    applied = "apply --plan half --data toy.npz --model base --trust --no-speed --explain 0 "
    line = (f"{PRUNE} --macs 0.4 " if command == "prune" else applied) + "--finetune 3 --out"
    whole, cut = f"{command}-whole", f"{command}-cut"
    assert say(line, whole)[0] == 0
    with monkeypatch.context() as patched:
        _stopping(2, patched)
        code, _, err = say(line, cut)
    assert (code, "epochs are kept in" in err) == (130, True), err
    code, _, err = say(line, cut, "--finetune-labels", 0.5)
    assert (code, "unfinished training with labels 0.0 instead of 0.5" in err) == (2, True), err
    code, out, err = say(line, cut)
    assert (code, err) == (0, "")
    assert "epoch 3" in out
    assert "epoch 2  " not in out
    assert _same_weights(whole, cut)
    losses = [[e["loss"] for e in _run(each)["finetuning"]["history"]] for each in (whole, cut)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_ten_kills_of_fine_tuning_change_nothing(base: Path) -> None:
    """SIGKILL at random moments of pruning and of twelve epochs that follow."""
    place, out = base.parent, base.parent / "shot"
    line = f"{PRUNE} --macs 0.4 --finetune 12 --finetune-lr 0.01 --out"
    with command_runner(place) as run, contextlib.chdir(place):
        assert run(f"{line} unshot").code == 0
        for through in kill_at_random(run, f"{line} shot", out, kills=10):
            assert _same_weights("unshot", through.name)
        if out.exists():
            assert run(f"{line} shot").code == 0
            assert _same_weights("unshot", "shot")
            epochs = [_run(each)["finetuning"]["history"] for each in ("unshot", "shot")]
            assert [e["loss"] for e in epochs[0]] == [e["loss"] for e in epochs[1]]
            assert not list(out.glob("*resume*"))


def test_another_point_of_a_search_can_be_fine_tuned(base: Path, say: Say) -> None:
    line = f"{PRUNE.replace('--steps 1', '--steps 2')} --max-drop 0.2 --confidence 0.5 --out sought"
    assert say(line)[0] == 0
    taken = "prune --from sought --at 0.95 --trust --no-speed --explain 0 --out"
    assert say(taken, "taken")[0] == 0
    code, _, err = say(taken, "taken-tuned", "--finetune", 2, "--finetune-lr", 0.01)
    assert (code, err) == (0, "")
    assert len(_run("taken-tuned")["finetuning"]["history"]) == 2
    assert "finetuning" not in _run("taken")
    shapes = [
        {k: v.shape for k, v in debride.load(folder, trust=True).state_dict().items()}
        for folder in ("taken", "taken-tuned")
    ]
    assert shapes[0] == shapes[1]


def test_a_search_keeps_its_floor_when_it_is_fine_tuned(
    base: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{PRUNE} --max-drift 0.9 --out"
    assert say(line, "floored")[0] == 0
    drift, tuned = Drift.__call__, []

    def drifting(self: Drift, model: torch.nn.Module) -> float:
        return 1.0 if tuned else drift(self, model)

    monkeypatch.setattr(Drift, "__call__", drifting)
    monkeypatch.setattr("debride.workflow.tell_epoch", lambda _: tuned.append)
    code, out, err = say(line, "floored-tuned", "--finetune", 1)
    assert (code, err) == (0, "")
    assert "would break the floor" in " ".join(out.split())
    assert _run("floored-tuned")["finetuning"]["kept"] is False
    assert _same_weights("floored", "floored-tuned")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"finetune": 1, "finetune_minutes": 1}, "both given: choose one"),
        ({"finetune_labels": 0.5}, "--finetune-labels is for fine-tuning: give --finetune or"),
        ({"finetune": 0}, "--finetune cannot be '0'"),
        ({"finetune": 1, "finetune_labels": 2}, "--finetune-labels cannot be '2'"),
    ],
)
@pytest.mark.parametrize("kind", [PruneSettings, ApplySettings])
def test_flags_that_do_not_go_together(kind: type, given: dict, words: str) -> None:
    needed = {"data": "phantom", "model": "m", "out": "o"}
    needed |= {"plan": "p"} if kind is ApplySettings else {}
    with pytest.raises(DebrideError, match=words):
        kind.resolve({**needed, **given})


def test_the_reference_sample_is_recorded(base: Path, say: Say) -> None:
    line = f"{PRUNE} --reference-strategy least-confident --reference-correct --out unsure"
    assert say(line)[0] == 0
    reference = _run("unsure")["reference"]
    assert {name: reference[name] for name in ("strategy", "per_class", "correct_only")} == {
        "strategy": "least_confident", "per_class": 5, "correct_only": True,
    }  # fmt: skip
    assert len(reference["indices"]) == 15
    usual = _run("half")["reference"]
    assert (usual["strategy"], len(usual["indices"])) == ("random", 15)
    assert usual["indices"] != reference["indices"]
    report = Path("unsure/report.html").read_text()
    assert "least_confident" in report
    assert ", ".join(map(str, reference["indices"][:5])) not in report
    code, _, err = say(f"{PRUNE} --reference-strategy clusterd --out x")
    assert (code, "did you mean 'clustered'?" in err) == (2, True)
    code, _, err = say(f"{PRUNE} --reference-strategy by_group --out x")
    assert (code, "name no patients" in err) == (2, True)
    assert not Path("x").exists()
