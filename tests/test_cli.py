"""The commands as a user meets them: help, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import debride
from debride.config import Settings, flag_of
from debride.files import UNFINISHED
from debride.settings import (
    ApplySettings,
    DemoSettings,
    DoctorSettings,
    EvaluateSettings,
    ExplainSettings,
    ExportSettings,
    InspectSettings,
    PruneSettings,
    ReportSettings,
    TrainSettings,
)

Say = Callable[..., tuple[int, str, str]]
COMMANDS = {
    "apply": ApplySettings,
    "demo": DemoSettings,
    "doctor": DoctorSettings,
    "evaluate": EvaluateSettings,
    "explain": ExplainSettings,
    "inspect": InspectSettings,
    "export": ExportSettings,
    "prune": PruneSettings,
    "report": ReportSettings,
    "train": TrainSettings,
}


SCRIPTED = """
import torch
from torch import nn

def make(outputs):
    scripted = torch.jit.script(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return nn.Sequential(scripted, nn.Linear(1, outputs))
"""


def error_of(said: tuple[int, str, str], code: int = 2) -> str:
    """Check that there is exactly one line on standard error, and give it."""
    got, _, err = said
    assert got == code, err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


# -- help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_setting_with_its_default(
    command: str, width: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    code, out, _ = say(command, "--help")
    assert code == 0
    words = " ".join(out.replace("│", " ").split())
    settings: type[Settings] = COMMANDS[command]
    for name, field in settings.model_fields.items():
        if field.json_schema_extra["positional"]:
            assert f"[{field.json_schema_extra['metavar']}]" in out
            continue
        assert flag_of(name) in out
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in words
    for flag in ("--config", "--seed", "--device", "--debug"):
        assert flag in out
    assert max(len(line) for line in out.splitlines()) <= int(width)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from debride.cli import main; main(['prune', '--help']); "
        "assert 'torch' not in sys.modules; assert 'debride.workflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_public_names_load_on_first_use() -> None:
    code = (
        "import sys, debride; assert 'torch' not in sys.modules; "
        "assert all(callable(getattr(debride, name)) for name in debride.__all__); "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert set(debride.__all__) <= set(dir(debride))
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        debride.prunes  # noqa: B018


def test_version_and_bare_command(say: Say) -> None:
    assert say("--version") == (0, f"debride {debride.__version__}\n", "")
    assert "Usage: debride" in say()[1]


# -- errors -----------------------------------------------------------------------------------


IG = "prune --data toy.npz --model tinynet:make --out x --force --criterion ig"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prun", "Did you mean 'prune'"),
        ("prune --modle x", "No such option: --modle"),
        ("prune --data toy.npz --model base", "--out must be given"),
        ("prune --data toy.npz --model base --out x --macs 2", "--macs cannot be '2'"),
        ("train --data nowhere --model tinynet:make --out x", "nowhere"),
        ("train --data toy.npz --model timm:resnet10 --out x", "timm:resnet10"),
        ("train --data toy.npz --model tinynet:mke --out x", "no function or class 'mke'"),
        ("train --data toy.npz --model runs/none --out x", "no folder 'runs/none'"),
        ("train --data toy.npz --model timm:nope --out x", "such as timm:resnet18"),
        ("train --data toy.npz --model tinynet:make --out x --image-size 60000", "too large"),
        ("train --data toy.npz --model tinynet:make --out x --resize 60000", "too large"),
        ("train --data toy.npz --model tinynet:make --out x --batch-size 1", "--batch-size 2 or"),
        ("train --data toy.npz --model tinynet:make --out x --explain -3", "--explain cannot be"),
        ("train --data toy.npz --model jitnet:make --out x", "the module '0' is TorchScript"),
        (
            "prune --data toy.npz --model base --trust --out x --ratio 0.99",
            "one stays",
        ),
        ("prune --data toy.npz --model base --trust --out x --macs 0.00001", "cannot be met"),
        ("explain --model base --trust --images tinynet.py --out x", "tinynet.py': it is no image"),
        ("train --data toy.npz --model tinynet:make --out x --device cuda:9", "no device 'cuda:9'"),
        ("train --data toy.npz --model tinynet:make --out toy.npz", "is a file"),
        ("train --data toy.npz --model tinynet:make --out .", "is not Debride's"),
        ("train --data toy.npz --model tinynet:make --out toy.npz/x", "cannot write"),
        ("prune --data toy.npz --model tinynet:make --weights no.pt --out x", "no.pt"),
        ("prune --data toy.npz --model tinynet:make --classes a,b --out x", "classes"),
        ("prune --data toy.npz --model tinynet:make --image-size 8,8,8 --out x", "3 numbers"),
        ("prune --data toy.npz --model tinynet:make --criterion lrpp --out x --force", "lrpp"),
        ("prune --data toy.npz --model tinynet:make --rules epsilom --out x --force", "epsilom"),
        (f"{IG} --option nsteps=2", "'ig' has no option 'nsteps': did you mean 'n_steps'"),
        (f"{IG} --option n_steps=two", "n_steps=two does not fit: ig takes a whole number of 1 or"),
        (
            f"{IG} --option n_steps=0",
            "n_steps=0 does not fit: ig takes a whole number of 1 or more",
        ),
        (f"{IG} --option aggregate=sum", "ig takes abs or positive or signed or square"),
        (f"{IG} --option n_steps", "--option 'n_steps' is not KEY=VALUE"),
        (f"{IG} --criterion random --option seed=3", "'random' has no option 'seed': known: none"),
        ("inspect --model tinynet:make --mean 0.5 --std 0.5", "--mean and --std change nothing"),
        ("plan schema --out .", "cannot write '.': it is a folder; name a file in it"),
        ("prune --config none.yaml", "no file 'none.yaml'"),
        ("apply --plan no.json --data toy.npz --model tinynet:make --out x", "no file 'no.json'"),
        ("apply --plan toy.npz --data toy.npz --model tinynet:make --out x", "is no text file"),
        ("evaluate --data toy.npz --model base --trust --original gone", "gone"),
        ("evaluate --data toy.npz --model base --trust --heatmap-rules epsilom", "epsilom"),
        ("explain --model base --trust --images gone --out x", "no file or folder 'gone'"),
        ("explain --model tinynet:make --images gone.png --out x", "gone.png"),
        ("report gone", "no folder 'gone': check RUN"),
        ("report toy.npz", "'toy.npz' is a file: give the folder of a run"),
        ("prune --data base --model base --trust --out x", "base' holds a network, no images"),
        ("prune --data toy.npz --model base/model.safetensors --out x", "is a file: give --model"),
        (
            "prune --data toy.npz --model tinynet:make --out x",
            "its weights are random: give --weights, or as --model a trained",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    line: str, said: str, base: Path, say: Say
) -> None:
    Path("jitnet.py").write_text(SCRIPTED)
    before = sorted(base.parent.iterdir())
    assert said in error_of(say(line))
    assert sorted(base.parent.iterdir()) == before


def test_no_name_is_not_the_present_folder(say: Say) -> None:
    common = ("train", "--out", "x")
    assert "no images are named" in error_of(say(*common, "--model", "tinynet:make", "--data", ""))
    assert "--model is empty" in error_of(say(*common, "--model", "", "--data", "toy.npz"))


def test_images_left_out_are_named_on_the_screen_and_not_in_the_report(
    place: Path, say: Say
) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("dark", 8), ("light", 8)):
        folder = place / "files" / "train" / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (16, 16)).astype(np.uint8) + 100 * (name == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (place / "files" / "train" / "dark" / "mueller_anna.png").write_text("no image")
    line = "train --data files --model tinynet:make --epochs 1 --no-speed --explain 0 --out skipped"
    assert "mueller_anna.png" in error_of(say(line))
    code, out, err = say(line, "--skip-bad")
    assert (code, "mueller" in err) == (0, False)
    assert "1 unreadable image left out:" in out
    assert "train/dark/mueller_anna.png: it is no image" in " ".join(out.split())
    assert json.loads((place / "skipped/run.json").read_text())["data"]["unreadable"] == 1
    for written in (place / "skipped").iterdir():
        assert b"mueller" not in written.read_bytes()


def test_finished_run_is_not_overwritten_by_accident(base: Path, say: Say) -> None:
    line = "train --data toy.npz --model tinynet:make --out base"
    assert "holds a finished run" in error_of(say(line))
    line = "prune --data toy.npz --model base --trust --out base --overwrite"
    assert "is the folder of --model" in error_of(say(line))


def test_code_of_a_folder_runs_only_with_trust(base: Path, say: Say) -> None:
    line = "evaluate --data toy.npz --model base"
    assert "--trust" in error_of(say(line))


def test_stored_preparation_is_not_overridden(base: Path, say: Say) -> None:
    line = "evaluate --data toy.npz --model base --trust --mean 0 --std 1"
    assert "--mean is stored in 'base'" in error_of(say(line))


def test_chance_level_stops_before_any_work(base: Path, say: Say) -> None:
    line = "prune --data toy.npz --model tinynet:make --out chance"
    error = error_of(say(line))
    assert "no better than chance" in error
    assert "--force" in error
    assert not Path("chance").exists()


def test_wrong_order_of_classes_is_suggested(base: Path, say: Say) -> None:
    state = debride.load(base, trust=True).state_dict()
    turned = {**state, **{k: state[k][[2, 0, 1]].clone() for k in ("8.weight", "8.bias")}}
    save_file(turned, "turned.safetensors")
    run = json.loads((base / "model.json").read_text())["preprocessing"]
    mean, std = run["mean"][0], run["std"][0]
    line = f"prune --data toy.npz --model tinynet:make --weights turned.safetensors --mean {mean}"
    error = error_of(say(line, "--std", std, "--out", "turned"))
    assert "with --classes 2,0,1 it would be clearly better" in error


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (
            OSError(28, "No space left on device"),
            1,
            "no space left on device 'new'; run again with",
        ),
        (RuntimeError("CUDA out of memory. Tried"), 1, "not enough memory: give a smaller"),
        (MemoryError(), 1, "not enough memory"),
        (ValueError("odd\nthing"), 1, "ValueError: odd; run again with --debug"),
    ],
)
def test_what_nobody_foresaw_is_one_sentence_too(
    raised: BaseException, code: int, said: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.setattr("debride.workflow.train", fail)
    line = "train --data toy.npz --model tinynet:make --out new"
    assert said in error_of(say(line), code)


def test_ctrl_c_says_what_is_kept(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("debride.workflow.train", interrupt)
    line = "train --data toy.npz --model tinynet:make --out stopped"
    code, _, err = say(line)
    assert (code, err) == (130, "stopped: no epoch was finished, nothing was written\n")
    Path("stopped").mkdir()
    Path("stopped", UNFINISHED).touch()
    code, _, err = say(line)
    kept = "the finished epochs are kept in stopped; run the same command again to go on"
    assert (code, err) == (130, f"stopped: {kept}\n")


def test_debug_shows_the_traceback(say: Say) -> None:
    code, _, err = say("report", "gone", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.strip().splitlines()[-1].startswith("error: no folder 'gone'")
