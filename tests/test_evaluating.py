"""`debride evaluate` as a gate: the verdict, its exit code, its limits, its subgroups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Say = Callable[..., tuple[int, str, str]]

QUICK = "--trust --no-speed --explain 12 --robustness 12 "
BESIDE = f"evaluate --data toy.npz --model half --original base {QUICK}"
COPY = f"evaluate --data toy.npz --model base --original base {QUICK}"


def test_an_unpruned_copy_passes_every_check(half: Path, say: Say) -> None:
    code, out, err = say(f"{COPY} --fail-on warn --out copied")
    assert (code, err) == (0, ""), err
    evidence = json.loads(Path("copied/evidence.json").read_text())
    verdict = evidence["verdict"]
    assert verdict["outcome"] == "pass"
    assert {check["outcome"] for check in verdict["checks"]} == {"pass"}
    assert all(abs(check["value"]) < 1e-6 for check in verdict["checks"])
    # an .npz has neither columns nor masks, and four images of a class are too few
    assert set(verdict["unmeasured"]) == {"subgroups", "localisation", "class_reasons"}
    assert "pass" in out
    said = " ".join(out.split())
    assert "rank correlation before and after 1.00 (mean), 1.00 (lowest tenth)" in said
    assert "moved beyond the yardstick: LRP 0%, Grad-CAM 0%" in said


@pytest.mark.parametrize(
    ("limit", "fail_on", "code"),
    [
        ("explanations=0,0", "fail", 3),
        ("explanations=0,0", "warn", 3),
        ("explanations=0,1", "warn", 3),
        ("explanations=0,1", "fail", 0),
    ],
)
def test_the_exit_code_is_for_pipelines(
    half: Path, say: Say, limit: str, fail_on: str, code: int
) -> None:
    lenient = [
        word
        for name in "balanced_accuracy worst_class auc calibration decisions yardstick "
        "class_reasons robustness".split()
        for word in ("--limit", f"{name}=1,1")
    ]  # fmt: skip
    found, _, err = say(BESIDE, *lenient, "--limit", limit, "--fail-on", fail_on)
    assert found == code, err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--limit heat=1,2", "no check 'heat' to limit: there are balanced_accuracy"),
        ("--limit auc=0.2,0.1", "the one to warn first"),
        ("--limit auc=0.2", "is not WARN,FAIL"),
        ("--subgroups sex", "'sex'"),
        ("--specificity 1", "--specificity"),
        ("--fail-on never", "--fail-on"),
        ("--evidence-methods lpr", "did you mean 'lrp'"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    half: Path, say: Say, flags: str, words: str
) -> None:
    code, out, err = say(BESIDE, *flags.split())
    assert code == 2
    assert words in err
    assert "deciding" not in out


def test_a_verdict_needs_an_original(half: Path, say: Say) -> None:
    code, _, err = say(f"evaluate --data toy.npz --model half {QUICK} --fail-on warn")
    assert code == 2
    assert "--fail-on needs --original" in err


def test_subgroups_of_columns(half: Path, say: Say, tmp_path: Path) -> None:
    """Columns of a manifest become subgroups; those that tell images apart do not."""
    import numpy as np
    from PIL import Image

    arrays = np.load("toy.npz")
    rows = ["image,label,split,sex,age,patient"]
    for split in ("train", "val", "test"):
        for place, (image, label) in enumerate(
            zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
        ):
            name = f"{split}{place}.png"
            Image.fromarray(image).save(tmp_path / name)
            sex = "fm"[place // 3 % 2]
            rows.append(f"{name},{int(label[0])},{split},{sex},{20 + place},p{split}{place}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    line = f"evaluate --model half --original base {QUICK} --out grouped --split train --data"
    code, _, err = say(line, tmp_path / "list.csv", "--subgroups", "sex")
    assert code == 0, err
    found = json.loads(Path("grouped/evidence.json").read_text())["subgroups"]
    (column,) = found["columns"]
    assert column["column"] == "sex"
    assert {group["name"]: group["images"] for group in column["groups"]} == {"f": 45, "m": 45}
    assert "Subgroups" in Path("grouped/report.html").read_text()
