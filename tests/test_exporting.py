"""``debride export``: what it writes, what it refuses, and what is there afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
import torch

from debride.artifact.bundle import read_bundle, write_bundle
from debride.artifact.onnx import OnnxNetwork
from debride.data.preprocessing import Preprocessing
from debride.models import ModelSpec, build

PREPARED = Preprocessing(spatial=(16, 16), channels=1, mean=(0.4,), std=(0.2,), resize=20, crop=16)
CLASSES = ("0", "1", "2")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """Write a tiny network as a run's folder."""
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
    spec = ModelSpec(
        source="timm:vit_tiny_patch16_224", outputs=3, channels=1, spatial=(16, 16), options=options
    )
    folder = place / "tiny-vit"
    write_bundle(
        folder,
        build(spec),
        spec=spec,
        preprocessing=PREPARED,
        classes=CLASSES,
        task="multiclass",
        run={},
    )
    return folder


@pytest.mark.slow
def test_a_file_with_how_to_use_it(run: Path, say, tmp_path: Path):
    out = tmp_path / "new" / "net.onnx"
    code, text, error = say("export --data toy.npz --int8 --check 20 --model", run, "--out", out)
    assert (code, error) == (0, "")
    names = ["net.export.json", "net.int8.onnx", "net.onnx"]
    assert sorted(path.name for path in out.parent.iterdir()) == names
    assert "20 test images of toy; calibrated on 90 training images" in text
    assert "100.0%" in text.partition("same decision")[2].splitlines()[0]
    assert "latency, batch 16" in text

    said = json.loads((out.parent / "net.export.json").read_text())
    for entry in said["files"]:
        content = (out.parent / entry["name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
        assert entry["parity"]["images"] == 20
    assert said["files"][0]["parity"]["relative"] < 1e-5
    assert said["input"]["shape"] == ["batch", 1, 16, 16]
    assert said["input"]["preprocessing"] == PREPARED.model_dump(mode="json")
    assert said["input"]["steps"][0] == "scale the shorter side to 20 pixels"
    assert said["output"]["classes"] == list(CLASSES)
    assert (
        said["made_from"]["weights_sha256"]
        == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    )
    assert said["opset"] == onnx.load(out).opset_import[0].version
    assert [entry["batch"] for entry in said["int8"]["latency_ms"]["batches"]] == [1, 16]

    notes = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert json.loads(notes["classes"]) == list(CLASSES)
    assert Preprocessing.model_validate_json(notes["preprocessing"]) == PREPARED
    image = torch.rand(2, 1, 16, 16)
    expected = read_bundle(run).model(image)
    assert torch.allclose(OnnxNetwork(out)(image), expected, atol=1e-5)

    code, _, error = say("export --model", run, "--out", out)
    assert code == 2
    assert "net.onnx' is already there: give another --out, or --overwrite" in error
    code, _, error = say("export --check 2 --overwrite --model", run, "--out", out)
    assert (code, error) == (0, "")
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.export.json", "net.onnx"]


def test_a_file_that_differs_is_not_written(run: Path, say, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(OnnxNetwork, "forward", lambda self, images: torch.full((1, 3), torch.nan))
    out = tmp_path / "net.onnx"
    code, _, error = say("export --check 4 --model", run, "--out", out)
    assert code == 2
    assert "of its largest output" in error
    assert "nothing was written; write it all the same with --force" in error
    assert list(tmp_path.iterdir()) == []
    code, text, error = say("export --check 4 --force --model", run, "--out", out)
    assert code == 0
    assert error.startswith("warning: the ONNX file differs from the network by")
    assert "4 of random noise, as no --data is given" in text
    said = json.loads((tmp_path / "net.export.json").read_text())
    assert said["compared_on"] == "4 of random noise, as no --data is given"
    assert said["files"][0]["parity"] == {
        "images": 4, "max_abs": None, "relative": None, "top1": said["files"][0]["parity"]["top1"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--model tiny-vit --out net.pt", "--out 'net.pt' must end in .onnx"),
        ("--model tiny-vit --int8 --out net.onnx", "calibrated on training images: give them with"),
        ("--model tiny-vit --no-per-channel --out net.onnx", "--no-per-channel is for int8"),
        ("--model tiny-vit --calibration 64 --out net.onnx", "--calibration is for int8"),
        ("--model nowhere --out net.onnx", "no folder 'nowhere': give --model a folder"),
        ("--model tiny-vit --data nowhere --out net.onnx", "nowhere"),
        ("--out net.onnx", "--model must be given"),
        ("--model tiny-vit --out toy.npz/net.onnx", "cannot write 'toy.npz/net.onnx'"),
    ],
)
def test_what_is_refused(run: Path, say, place: Path, words: str, reason: str):
    before = sorted(place.iterdir())
    code, _, error = say(f"export {words}")
    assert code == 2
    assert reason in error
    assert len(error.splitlines()) == 1
    assert sorted(place.iterdir()) == before


def test_without_preparation_images_cannot_be_read(run: Path, say, tmp_path: Path):
    bundle = read_bundle(run)
    write_bundle(
        tmp_path / "bare",
        bundle.model,
        spec=bundle.spec,
        preprocessing=None,
        classes=CLASSES,
        task="multiclass",
        run={},
    )
    code, _, error = say("export --data toy.npz --model", tmp_path / "bare", "--out", "x.onnx")
    assert code == 2
    assert "does not say how images are prepared: leave out --data" in error
