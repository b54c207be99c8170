"""``debride inspect``: with and without images, on the screen and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from debride.inspecting import patterns

Say = Callable[..., tuple[int, str, str]]

MIXED = """
from torch import nn

def make(outputs, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Softmax(1),
        nn.Conv2d(6, 4, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs),
    )
"""


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


@pytest.mark.parametrize("width", ["80", "120"])
def test_no_images_are_needed(
    width: str, place: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    line = "inspect --model tinynet:make --image-size 16 --channels 1 --classes a,b,c --out g.json"
    code, out, err = say(line)
    assert (code, err) == (0, "")
    assert "image 16×16 pixels, 1 channel" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= int(width)
    table = rows(out)
    # 1 → 8 at 16², 8 → 16 at 8², 16 → 3
    first, second, last = 9 * 8 * 256, 9 * 8 * 16 * 64, 48
    total = first + second + last
    ends = {"0": first + second, "3": second + last}
    for name, units in (("0", "8"), ("3", "16")):
        (row,) = [row for row in table if row[:2] == [name, "channel"]]
        assert row[2] == units
        assert row[-1] == f"{ends[name] / total:.1%}"
    written = json.loads(Path("g.json").read_text())
    assert written["image"] == [1, 16, 16]
    assert written["costs"]["macs"] == total == written["can_be_cut"]["macs"]
    assert {g["name"]: g["macs"] for g in written["groups"]} == ends
    assert written["groups"][0]["layers"] == ["0", "1", "3"]
    assert written["left_alone"] == []


def test_images_say_size_channels_and_classes(place: Path, say: Say) -> None:
    without = say("inspect --model tinynet:make --image-size 16 --channels 1 --classes a,b,c")
    assert say("inspect --model tinynet:make --data toy.npz") == without
    assert without[0] == 0


def test_a_folder_says_it_all_itself(base: Path, say: Say) -> None:
    code, out, err = say("inspect --model base --trust")
    assert (code, err) == (0, "")
    assert "weights of base" in out
    assert "2 groups of coupled units, 24 units" in " ".join(out.split())
    code, _, err = say("inspect --model base --trust --image-size 8")
    assert (code, "--image-size is stored in 'base'" in err) == (2, True)


def test_what_is_left_alone_is_listed_with_the_reason(place: Path, say: Say) -> None:
    Path("mixnet.py").write_text(MIXED)
    code, out, err = say("inspect --model mixnet:make --image-size 8 --channels 1 --out mix.json")
    assert (code, err) == (0, "")
    left = json.loads(Path("mix.json").read_text())["left_alone"]
    assert [(entry["name"], entry["units"]) for entry in left] == [("2", 6)]
    assert "left alone" in out
    (row,) = [row for row in rows(out) if row[:2] == ["2", "6"]]
    assert " ".join(row[2:]).startswith(left[0]["reason"][:20])


def test_a_network_that_does_not_run_at_that_size(place: Path, say: Say) -> None:
    code, _, err = say("inspect --model torchvision:resnet18 --image-size 64,64,64")
    assert code == 2
    assert "resnet18 takes 2-D images" in err


def test_names_alike_but_for_numbers_are_one_pattern() -> None:
    names = ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "3", "7"]
    assert patterns(names) == ["layer1.*.conv1 (2)", "layer2.0.conv1", "* (2)"]
