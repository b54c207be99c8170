"""``debride plan``: what it prints, draws and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from debride.planning.groups import find_groups
from debride.planning.make import finish
from debride.planning.plan import Plan
from debride.planning.schema import plan_schema
from debride.reviewing.comparing import paired
from planning import toys

Say = Callable[..., tuple[int, str, str]]
IMAGES = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plans(tmp_path: Path) -> tuple[Path, Path]:
    model = toys.randomise(toys.Flat())
    conv, hidden = find_groups(model, IMAGES).groups
    made = {
        "one": finish(
            model, [conv.planned([0, 1, 2]), hidden.planned([4])], IMAGES, {"criterion": "lrp"}
        ),
        "two": finish(model, [conv.planned([1, 2, 4, 5])], IMAGES, {}),
    }
    for name, plan in made.items():
        (tmp_path / f"{name}.json").write_text(plan.to_json())
    return tmp_path / "one.json", tmp_path / "two.json"


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


@pytest.mark.parametrize("width", ["80", "120"])
def test_show(
    width: str, plans: tuple[Path, Path], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    code, out, err = say("plan show", plans[0])
    assert (code, err) == (0, "")
    table = rows(out)
    plan = Plan.from_json(plans[0].read_text())
    assert ["plan", "criterion", "lrp"] in table
    assert plan.fingerprint[:12] in out
    assert f"{plan.macs_kept:.1%} kept" in out
    for name, kind, kept, units in (("conv", "channel", 3, 6), ("hidden", "neuron", 1, 10)):
        (row,) = [row for row in table if row[:1] == [name]]
        assert row[:6] == [name, kind, "1", str(kept), "of", str(units)]
        full, empty = row[6].count("█"), row[6].count("░")
        assert full == round(kept / units * (full + empty))
        assert row[7] == f"{kept / units:.0%}"
    assert ["all", "2", "4", "of", "16"] in [row[:5] for row in table]
    assert max(map(len, out.splitlines())) <= int(width)


def test_show_takes_the_folder_of_a_run(half: Path, say: Say) -> None:
    code, out, err = say("plan show half")
    assert (code, err) == (0, "")
    assert "criterion lrp" in " ".join(out.split())
    assert "protect" not in out
    assert "weights" in out


def test_a_plan_that_cuts_nothing(plans: tuple[Path, Path], say: Say) -> None:
    data = json.loads(plans[0].read_text()) | {"groups": []}
    plans[0].write_text(json.dumps(data))
    assert "none: the plan cuts nothing" in say("plan show", plans[0])[1]


def test_pictures(plans: tuple[Path, Path], tmp_path: Path, say: Say) -> None:
    for kind in ("png", "svg", "pdf"):
        files = [tmp_path / f"{name}.{kind}" for name in ("a", "b")]
        for file in files:
            assert say("plan show", plans[0], "--picture", file)[0] == 0
        assert files[0].read_bytes() == files[1].read_bytes(), "one plan, one file"
    with Image.open(tmp_path / "a.png") as image:
        pixels = image.convert("RGB").getcolors(1 << 20)
    colours = {colour: count for count, colour in pixels}
    kept, cut = colours[(0x1F, 0x6F, 0x8B)], colours[(0xD9, 0xE2, 0xE6)]
    # 3 of 6 and 1 of 10 are kept: 4 units in the dark colour, 12 in the light one, and the
    # legend's two patches
    assert kept / cut == pytest.approx(4 / 12, rel=0.1)
    svg = (tmp_path / "a.svg").read_text()
    assert svg.startswith("<?xml")
    code, _, err = say("plan show", plans[0], "--picture", tmp_path / "a.gif")
    assert code == 2
    assert "give a name that ends in .png, .svg, .pdf" in err
    assert not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize("width", ["80", "120"])
def test_diff(
    width: str, plans: tuple[Path, Path], say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    code, out, err = say("plan diff", *plans)
    assert (code, err) == (0, "")
    table = rows(out)
    # units, A, B, both, only A, only B, overlap; 'two' says nothing of hidden: it keeps all
    assert ["conv", "6", "3", "4", "2", "1", "2", "40%"] in table
    assert ["hidden", "10", "1", "10", "1", "0", "9", "10%"] in table
    assert ["all", "16", "4", "14", "3", "1", "11", "20%"] in table
    assert ["conv", "0", "4-5"] in table
    assert ["hidden", "–", "0-3", "5-9"] in table
    macs = next(row for row in table if row[:1] == ["MACs"])
    assert len(re.findall(r"\(\d+\.\d%\)", " ".join(macs))) == 2
    assert max(map(len, out.splitlines())) <= int(width)


def test_diff_of_a_plan_and_itself(plans: tuple[Path, Path], say: Say) -> None:
    code, out, _ = say("plan diff", plans[0], plans[0])
    assert code == 0
    assert "2 groups keep the same units" in out
    assert "kept by A only" not in out


def test_groups_are_paired_by_name_in_the_order_of_the_first(plans: tuple[Path, Path]) -> None:
    one, two = (Plan.from_json(path.read_text()) for path in plans)
    pairs = paired(two, one)
    assert [a.name for a, _ in pairs] == ["conv", "hidden"]
    assert pairs[1][0].keep == tuple(range(10))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("show gone.json", "no file 'gone.json': check PLAN"),
        ("show toy.npz", "'toy.npz' is no text file"),
        ("show", "Missing argument 'PLAN'; 'debride plan show --help' lists"),
        ("shw", "Did you mean 'show'"),
    ],
)
def test_mistakes_are_one_sentence(line: str, said: str, place: Path, say: Say) -> None:
    code, _, err = say(f"plan {line}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err


def test_plans_for_different_networks_are_not_compared(
    plans: tuple[Path, Path], tmp_path: Path, say: Say
) -> None:
    net = toys.randomise(toys.SmallUNet())
    other = tmp_path / "other.json"
    other.write_text(finish(net, [], IMAGES, {}).to_json())
    code, _, err = say("plan diff", plans[0], other)
    assert code == 2
    assert "are plans for different architectures (fingerprints" in err
    data = json.loads(plans[1].read_text())
    data["groups"][0]["units"] = 8
    other.write_text(json.dumps(data))
    code, _, err = say("plan diff", plans[0], other)
    assert code == 2
    assert "the group 'conv' has 6 units in one plan and 8 in the other" in err


def test_schema(say: Say, tmp_path: Path) -> None:
    assert say("plan schema") == (0, plan_schema(), "")
    assert say("plan schema --out", tmp_path / "s.json")[0] == 0
    assert (tmp_path / "s.json").read_text() == plan_schema()


def test_a_bare_command_shows_its_help_alone(say: Say) -> None:
    for line in ("", "plan"):
        code, out, err = say(line)
        assert (code, err) == (2, "")
        assert "Usage: debride" in out
