"""The commands as a user meets them: help, errors, exit codes, and the whole way on toy images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import debride
from debride.cli import main
from debride.config import Settings
from debride.settings import (
    ApplySettings,
    DemoSettings,
    DoctorSettings,
    EvaluateSettings,
    ExplainSettings,
    PruneSettings,
    ReportSettings,
    TrainSettings,
)

COMMANDS = {
    "apply": ApplySettings,
    "demo": DemoSettings,
    "doctor": DoctorSettings,
    "evaluate": EvaluateSettings,
    "explain": ExplainSettings,
    "prune": PruneSettings,
    "report": ReportSettings,
    "train": TrainSettings,
}
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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand in a folder with a tiny network and images that are dark, bright or striped."""
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
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    sys.modules.pop("tinynet", None)


@pytest.fixture
def say(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command line; give exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(line: str = "", *more: object) -> tuple[int, str, str]:
        words = [*line.split(), *(str(word) for word in more)]
        monkeypatch.setattr(sys, "argv", ["debride", *words])
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def base(place: Path) -> Path:
    """Train the tiny network once."""
    line = "train --data toy.npz --model tinynet:make --epochs 12 --lr 0.02 --batch-size 16 "
    assert main([*line.split(), "--out", "base", "--no-speed", "--explain", "2"]) == 0
    return place / "base"


@pytest.fixture(scope="module")
def half(base: Path) -> Path:
    """Halve it once."""
    line = "prune --data toy.npz --model base --trust --out half --steps 2 --reference 5 --no-speed"
    assert main([*line.split(), "--explain", "3"]) == 0
    return base.parent / "half"


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
        assert "--" + name.replace("_", "-") in out
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
        ("train --data toy.npz --model tinynet:make --out x --device cuda:9", "no device 'cuda:9'"),
        ("train --data toy.npz --model tinynet:make --out toy.npz", "is a file"),
        ("train --data toy.npz --model tinynet:make --out .", "is not Debride's"),
        ("train --data toy.npz --model tinynet:make --out toy.npz/x", "cannot write"),
        ("prune --data toy.npz --model tinynet:make --weights no.pt --out x", "no.pt"),
        ("prune --data toy.npz --model tinynet:make --classes a,b --out x", "classes"),
        ("prune --data toy.npz --model tinynet:make --image-size 8,8,8 --out x", "3 numbers"),
        ("prune --data toy.npz --model tinynet:make --criterion lrpp --out x --force", "lrpp"),
        ("prune --data toy.npz --model tinynet:make --rules epsilom --out x --force", "epsilom"),
        ("prune --config none.yaml", "no file 'none.yaml'"),
        ("apply --plan no.json --data toy.npz --model tinynet:make --out x", "no file 'no.json'"),
        ("evaluate --data toy.npz --model base --trust --original gone", "gone"),
        ("explain --model base --trust --images gone --out x", "no file or folder 'gone'"),
        ("explain --model tinynet:make --images gone.png --out x", "gone.png"),
        ("report --run gone", "no file 'gone/run.json'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    line: str, said: str, base: Path, say: Say
) -> None:
    before = sorted(base.parent.iterdir())
    assert said in error_of(say(line))
    assert sorted(base.parent.iterdir()) == before


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
        (OSError(28, "No space left on device"), 1, "no space left on device; run again with"),
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
    code, _, err = say("train --data toy.npz --model tinynet:make --out new")
    kept = "the finished epochs are kept in new; run the same command again to go on"
    assert (code, err) == (130, f"stopped: {kept}\n")


def test_debug_shows_the_traceback(say: Say) -> None:
    code, _, err = say("report", "--run", "gone", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.strip().splitlines()[-1].startswith("error: no file 'gone/run.json'")


# -- the whole way ----------------------------------------------------------------------------


def test_train_writes_a_folder_that_says_where_it_comes_from(base: Path) -> None:
    run = json.loads((base / "run.json").read_text())
    assert run["command"] == "train"
    assert run["settings"]["epochs"] == 12
    assert run["settings"]["lr"] == 0.02
    assert run["versions"]["torch"] == torch.__version__
    assert run["data"]["images"] == {"train": 90, "val": 45, "test": 30}
    assert len(run["data"]["sha256"]) == 64
    assert run["seconds"]["total"] >= run["seconds"]["training"] > 0
    assert run["validation"]["model"] > 0.9
    assert (base / "report.html").stat().st_size > 1000


def test_prune_keeps_the_budget_and_reports_the_test_split(base: Path, half: Path) -> None:
    run = json.loads((half / "run.json").read_text())
    evidence = json.loads((half / "evidence.json").read_text())
    cost = evidence["cost"]
    # eight and sixteen channels are coarse: one of them is six percent
    assert cost["model"]["macs"] <= 0.51 * cost["original"]["macs"]
    assert evidence["split"] == "test"
    assert evidence["images"] == 30
    assert run["history"][0]["step"] == 0
    assert run["validation"]["model"] > 0.6
    assert evidence["explanations"]["images"] == 3
    smaller = debride.load(half, trust=True)
    convs = [module for module in smaller.modules() if isinstance(module, nn.Conv2d)]
    assert convs[0].out_channels < 8 or convs[1].out_channels < 16


def test_pruning_again_starts_from_the_whole_network(half: Path, say: Say) -> None:
    line = "prune --data toy.npz --model half --trust --out quarter"
    assert "already pruned" in error_of(say(line))


def test_apply_gives_the_same_network_as_prune(half: Path, say: Say) -> None:
    line = (
        "apply --plan half/plan.json --data toy.npz --model base --trust --out again "
        "--recovery none --no-speed --explain 0"
    )
    code, out, err = say(line)
    assert code == 0, err
    assert "MACs per image" in out
    first, second = (debride.load(f, trust=True).state_dict() for f in (half, Path("again")))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    assert torch.equal(first["8.bias"], second["8.bias"])


def test_evaluate_beside_the_original(half: Path, say: Say) -> None:
    line = (
        "evaluate --data toy.npz --model half --original base --trust --split val --no-speed "
        "--explain 2 --out measured"
    )
    code, out, err = say(line)
    assert code == 0, err
    assert "validation balanced accuracy" in out
    assert "kept" in out
    evidence = json.loads(Path("measured/evidence.json").read_text())
    assert (evidence["split"], evidence["images"]) == ("val", 45)


def test_explain_draws_one_png_per_image(half: Path, say: Say) -> None:
    from PIL import Image

    code, _, err = say("explain --data toy.npz --model half --trust --limit 4 --out maps")
    assert code == 0, err
    files = sorted(Path("maps").iterdir())
    assert [file.name for file in files] == ["001.png", "002.png", "003.png", "004.png"]
    pixels = np.asarray(Image.open(files[0]).convert("RGB")).astype(int)
    assert pixels.shape[1] > 2 * pixels.shape[0] - 200
    assert (abs(pixels[..., 0] - pixels[..., 2]) > 60).any()  # colour, not only grey
    code, _, err = say("explain --images maps --model half --trust --limit 2 --out more")
    assert code == 0, err
    assert len(list(Path("more").iterdir())) == 2


def test_report_is_written_anew_from_the_folder(half: Path, say: Say) -> None:
    before = (half / "report.html").read_text()
    (half / "report.html").unlink()
    assert say("report", "--run", "half")[0] == 0
    assert (half / "report.html").read_text() == before
    code, _, err = say("report", "--run", "half", "--show-names", "--out", "named.html")
    assert code == 0, err
    assert Path("named.html").read_text() != before


def test_doctor_says_what_can_be_cut_and_explained(base: Path, say: Say) -> None:
    code, out, err = say("doctor --data toy.npz --model tinynet:make")
    assert code == 0, err
    assert "2 groups of coupled units, 24 units; 100% of the MACs" in out
    assert "yes, with the rules 'epsilon'" in out
    assert "to prune in 8 steps" in out


def test_doctor_names_operators_without_a_rule(place: Path, say: Say) -> None:
    Path("oddnet.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self, outputs):\n"
        "        super().__init__()\n"
        "        self.a = nn.Conv2d(1, 4, 3)\n"
        "        self.b = nn.Linear(4, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.b(torch.erfinv(self.a(x).tanh() / 2).mean((2, 3)))\n"
    )
    code, out, err = say("doctor --data toy.npz --model oddnet:Odd")
    assert code == 0, err
    assert "no rule for erfinv" in out


@pytest.mark.slow
def test_demo_in_its_own_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "debride.cli", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "runs/demo/half/run.json").read_text())
    cost = json.loads((tmp_path / "runs/demo/half/evidence.json").read_text())["cost"]
    assert cost["model"]["macs"] <= 0.5 * cost["original"]["macs"]
    assert run["validation"]["original"] > 0.8
    assert run["validation"]["model"] >= run["validation"]["original"] - 0.01
    assert "runs/demo/half/report.html" in done.stdout
