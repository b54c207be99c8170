"""The whole way on toy images, command by command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import debride
from debride.opening import open_job
from debride.planning.plan import Plan
from debride.settings import EvaluateSettings

Say = Callable[..., tuple[int, str, str]]


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


def test_images_that_a_network_learnt_from_never_validate_it(base: Path, say: Say) -> None:
    with np.load("toy.npz") as arrays:
        np.savez("whole.npz", **{k: v for k, v in arrays.items() if not k.startswith("val")})
    more = "--lr 0.02 --batch-size 16 --no-speed --explain 0 --seed 1 --validation 0.2"
    line = f"train --data whole.npz --model tinynet:make --epochs 12 --out drawn {more}"
    assert say(line)[0] == 0

    def held_out(folder: str, **changes: object) -> tuple[set[str], str]:
        chosen = {"model": folder, "data": "whole.npz", "trust": True, **changes}
        source = open_job(EvaluateSettings.resolve({**chosen, "out": "unused"})).source
        return {record.name for record in source.splits["val"]}, " ".join(source.notes)

    own, said = held_out("drawn", seed=1, validation=0.2)
    assert len(own) == 18
    assert "They are those" not in said
    assert held_out("drawn") == (own, said + " They are those that 'drawn' was made with.")
    cut = "--steps 1 --macs 0.7 --reference 5 --no-speed --explain 0 --robustness 0 --seed 4"
    assert say(f"prune --data whole.npz --model drawn --trust --out cut {cut}")[0] == 0
    assert json.loads(Path("cut/run.json").read_text())["data"]["drawn"] == [0.2, 1]
    assert held_out("cut", seed=7)[0] == own, "a cut network passes its split on"
    assert say("report cut --show-names")[0] == 0, "the images are found again"
    other, said = held_out("base", seed=1)
    assert (len(other), "They are those" in said) == (12, False), "made with other images"


def test_a_training_that_came_to_nothing_says_so(say: Say) -> None:
    line = "train --data toy.npz --model tinynet:make --epochs 1 --lr 1e-9 --out nothing --no-speed"
    code, _, err = say(f"{line} --explain 0")
    assert code == 0
    assert "no better than chance on the validation images" in err
    assert "train it with more --epochs, a smaller --batch-size or another --lr" in err
    code, _, err = say("prune --data toy.npz --model nothing --trust --macs 0.5 --out no")
    assert code == 2
    assert "'nothing' was trained for other images, or for too short" in err


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
    code, _, err = say(line)
    assert code == 2
    assert "already pruned" in err


def test_apply_cuts_what_the_plan_of_prune_says(half: Path, say: Say) -> None:
    line = (
        "apply --plan half --data toy.npz --model base --trust --out again "
        "--recovery none --no-speed --explain 0"
    )
    code, out, err = say(line)
    assert code == 0, err
    assert "MACs per image" in out
    pruned, again = (debride.load(f, trust=True).state_dict() for f in (half, Path("again")))
    assert {k: v.shape for k, v in pruned.items()} == {k: v.shape for k, v in again.items()}
    plan = Plan.from_json((half / "plan.json").read_text())
    cut = debride.apply(debride.load("base", trust=True), plan).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in cut.items())


def test_an_edited_plan_is_counted_anew_and_said(half: Path, say: Say) -> None:
    plan = json.loads((half / "plan.json").read_text())
    plan["groups"][0]["keep"] = "0"
    Path("thin.json").write_text(json.dumps(plan))
    line = (
        "apply --plan thin.json --data toy.npz --model base --trust --out thin "
        "--recovery none --no-speed --explain 0 --force"
    )
    code, _, err = say(line)
    assert code == 0, err
    assert err.startswith(f"warning: the plan states costs of {plan['cost']['before']['macs']} → ")
    written = json.loads(Path("thin/plan.json").read_text())
    assert written["cost"]["before"] == plan["cost"]["before"]
    evidence = json.loads(Path("thin/evidence.json").read_text())
    assert written["cost"]["after"] == evidence["cost"]["model"]
    assert written["cost"]["after"]["macs"] < plan["cost"]["after"]["macs"]


def test_a_plan_without_a_coupled_layer_is_refused(half: Path, say: Say) -> None:
    plan = json.loads((half / "plan.json").read_text())
    removed = plan["groups"][0]["members"].pop()
    Path("edited.json").write_text(json.dumps(plan))
    line = "apply --data toy.npz --model base --trust --out edited --no-speed --explain 0 --plan"
    code, _, err = say(line, "edited.json")
    assert (code, f"'{plan['groups'][0]['name']}' lacks '{removed[0]}'" in err) == (2, True)
    code, _, err = say(line, "half/run.json")
    assert (code, "this is JSON, and no plan: give the plan.json" in err) == (2, True)
    assert not Path("edited").exists()


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


def test_evaluation_replaces_its_own_folder_and_no_other(
    base: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "evaluate --data toy.npz --model base --trust --split val --no-speed --explain 1 --out"
    assert say(line, "seen")[0] == 0
    first = sorted(file.name for file in Path("seen").iterdir())
    names = ["card.md", "evidence.json", "heatmaps.safetensors", "report.html", "run.json"]
    assert first == names
    assert say(line, "seen")[0] == 0

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = {file: file.read_bytes() for file in Path("seen").iterdir()}
    monkeypatch.setattr("debride.evidence.Evidence.save_samples", fail)
    code, _, err = say(line, "seen")
    assert (code, "cannot write 'seen': No space left on device" in err) == (2, True)
    assert {file: file.read_bytes() for file in Path("seen").iterdir()} == before
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    code, _, err = say(line, "mine")
    assert (code, "holds something that is not Debride's" in err) == (2, True)


def test_a_training_stopped_while_it_is_measured_goes_on_there(
    place: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    line = "train --data toy.npz --model tinynet:make --epochs 2 --no-speed --explain 1 --out late"
    with monkeypatch.context() as patched:
        patched.setattr("debride.workflow.measure_evidence", interrupt)
        code, out, err = say(line)
    assert (code, "the finished epochs are kept in late" in err) == (130, True)
    assert [file.name for file in Path("late").iterdir()] == ["resume.safetensors"]
    code, _, err = say(line, "--batch-size", 8)
    assert (code, "batch_size 64 instead of 8" in err) == (2, True)
    other = line.replace("toy.npz", "negative.npz")
    with np.load("toy.npz") as arrays:
        inverted = {k: 255 - v if k.endswith("images") else v for k, v in arrays.items()}
    np.savez("negative.npz", **inverted)
    code, _, err = say(other)
    assert (code, "unfinished training with images" in err) == (2, True)
    code, out, err = say(line)
    assert (code, err) == (0, "")
    assert "resuming" in out
    assert "epoch 1" not in out.replace("best       epoch 1", "")
    assert (place / "late/report.html").exists()
    assert not (place / "late/resume.safetensors").exists()


def test_explain_draws_one_png_per_image(half: Path, say: Say) -> None:
    code, _, err = say("explain --data toy.npz --model half --trust --limit 4 --out maps")
    assert code == 0, err
    files = sorted(Path("maps").glob("*.png"))
    assert [file.name for file in files] == ["001.png", "002.png", "003.png", "004.png"]
    pixels = np.asarray(Image.open(files[0]).convert("RGB")).astype(int)
    assert pixels.shape[1] > pixels.shape[0]
    assert (abs(pixels[..., 0] - pixels[..., 2]) > 60).any()  # colour, not only grey
    code, _, err = say("explain --images maps --model half --trust --limit 2 --raw none --out more")
    assert code == 0, err
    assert {file.name for file in Path("more").iterdir()} == {"001.png", "002.png", "index.json"}


def test_report_is_written_anew_from_the_folder(half: Path, say: Say) -> None:
    before = (half / "report.html").read_text()
    card = (half / "card.md").read_text()
    (half / "report.html").unlink()
    (half / "card.md").unlink()
    assert say("report", "half")[0] == 0
    assert (half / "report.html").read_text() == before
    assert (half / "card.md").read_text() == card
    code, _, err = say("report", "half", "--show-names", "--out", "named.html")
    assert code == 0, err
    assert Path("named.html").read_text() != before
    assert Path("named.md").exists()
    code, _, err = say("report", "half", "--out", "card.md")
    assert (code, "give --out a file like page.html" in err) == (2, True)


def test_runs_are_compared_on_one_page(half: Path, say: Say, tmp_path: Path) -> None:
    copy = tmp_path / "tenth"
    shutil.copytree(half, copy)
    page = tmp_path / "page.html"
    code, _, err = say("report", "half", copy, "--out", page)
    assert code == 0, err
    assert "2 runs compared" in page.read_text()
    assert "2 tenth" in page.read_text()
    run = json.loads((copy / "run.json").read_text())
    run["data"]["sha256"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(run))
    code, _, err = say("report", "half", copy, "--out", tmp_path / "other.html")
    assert (code, "were measured on different images" in err) == (2, True)
    assert not (tmp_path / "other.html").exists()
    code, _, err = say("report")
    assert (code, "give the folder of a finished run" in err) == (2, True)


def test_a_damaged_run_is_one_sentence(half: Path, say: Say, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(half, copy)
    run = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**run, "data": {}}))
    code, _, err = say("report --show-names", copy)
    assert (code, "does not say which images these were" in err) == (2, True)
    (copy / "run.json").write_text("{}")
    code, _, err = say("report", copy)
    assert (code, "run.json' is damaged: make the run again" in err) == (2, True)


def test_doctor_says_what_can_be_cut_and_explained(base: Path, say: Say) -> None:
    code, out, err = say("doctor --data toy.npz --model tinynet:make")
    assert code == 0, err
    assert "2 groups of coupled units, 24 units; at most 100% of the MACs" in out
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


# -- other tasks ------------------------------------------------------------------------------

DICT_NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_chans, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        features = self.body(x)
        return {"features": features, "logits": self.head(features)}
"""


def test_single_logit_checkpoint_in_wrappers_and_a_dict_as_output(place: Path, say: Say) -> None:
    """A hospital's checkpoint: one sigmoid logit, DataParallel's prefix, its own preparation."""
    Path("dictnet.py").write_text(DICT_NETWORK)
    scope: dict[str, type[nn.Module]] = {}
    exec(DICT_NETWORK, scope)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 120), ("val", 60), ("test", 40)):
        labels = np.arange(count) % 2
        images = rng.normal(80, 15, (count, 16, 16))
        images[labels == 1, ::2] += 80
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez("two.npz", **arrays)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = scope["Net"](1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x = (torch.tensor(arrays["train_images"]).float()[:, None] / 255 - 0.4) / 0.3
    y = torch.tensor(arrays["train_labels"]).float()
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x)["logits"], y).backward()
        optimizer.step()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, "hospital.pt")

    line = "prune --data two.npz --model dictnet:Net --weights hospital.pt --mean 0.4 --std 0.3"
    work = "--steps 2 --reference 5 --no-speed --explain 2 --out two"
    code, out, err = say(f"{line} {work}")
    assert code == 0, err
    assert "original   balanced accuracy 1.000" in out
    found = json.loads(Path("two/model.json").read_text())
    assert found["task"] == "binary"
    assert found["preprocessing"]["mean"] == [0.4]
    assert json.loads(Path("two/run.json").read_text())["validation"]["model"] > 0.9
    code, _, err = say(f"{line} {work} --classes 1,0 --overwrite")
    assert code == 2
    assert "with --classes 0,1 it would be clearly better" in err


def test_labels_that_hold_together(place: Path, say: Say) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 96), ("val", 48), ("test", 48)):
        labels = rng.integers(0, 2, (count, 3))
        images = rng.normal(60, 10, (count, 16, 16))
        images[labels[:, 0] == 1] += 40
        images[labels[:, 1] == 1, ::2] += 50
        images[labels[:, 2] == 1, :, ::2] += 50
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez("three.npz", **arrays)
    line = "train --data three.npz --model tinynet:make --epochs 8 --lr 0.02 --batch-size 16"
    code, out, err = say(f"{line} --no-speed --explain 0 --out three")
    assert code == 0, err
    assert "validation ROC AUC" in out
    line = "prune --data three.npz --model three --trust --steps 2 --ratio 0.5 --no-speed"
    code, out, err = say(f"{line} --explain 2 --out fewer")
    assert code == 0, err
    assert json.loads(Path("fewer/run.json").read_text())["validation"]["model"] > 0.8
    assert json.loads(Path("fewer/model.json").read_text())["task"] == "multilabel"


ONE_LOGIT = """
from torch import nn

def make(channels):
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1, stride=2), nn.BatchNorm2d(48), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 1),
    )
"""


def test_own_network_with_a_single_logit_is_trained_and_cut(place: Path, say: Say) -> None:
    (place / "onelogit.py").write_text(ONE_LOGIT)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("val", 40), ("test", 40)):
        labels = np.arange(count) % 2
        images = rng.normal(80, 10, (count, 16, 16)) + 60 * labels[:, None, None]
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(place / "two.npz", **arrays)
    line = "train --data two.npz --model onelogit:make --epochs 8 --lr 0.02 --batch-size 16"
    assert say(f"{line} --out one --no-speed --explain 0")[0] == 0
    assert json.loads((place / "one" / "model.json").read_text())["task"] == "binary"
    line = "prune --data two.npz --model one --trust --out onehalf --steps 2 --reference 5"
    code, _, err = say(f"{line} --no-speed --explain 2")
    assert (code, err) == (0, "")
    run = json.loads((place / "onehalf" / "run.json").read_text())
    assert run["validation"]["original"] > 0.9


def test_an_image_size_that_the_network_does_not_take_is_one_sentence(say: Say) -> None:
    line = "train --data phantom:60 --model torchvision:vgg11 --image-size 8 --out small"
    code, _, err = say(line)
    assert code == 2
    assert "torchvision:vgg11 does not run on images of 8×8 pixels" in " ".join(err.split())


def test_originals_that_see_other_images_are_not_compared(base: Path, say: Say) -> None:
    line = "train --data toy.npz --model tinynet:make --epochs 1 --mean 0.1 --std 0.9"
    assert say(f"{line} --out brighter --no-speed --explain 0")[0] == 0
    code, _, err = say("evaluate --data toy.npz --model base --original brighter --trust")
    assert code == 2
    assert "prepared in another way" in " ".join(err.split())
