"""Folders that are damaged, changed or made to harm: one sentence, and nothing runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from debride.artifact.bundle import read_bundle, write_bundle
from debride.artifact.manifest import own_hash
from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.planning.costs import Costs
from debride.planning.plan import Plan, fingerprint

SPEC = ModelSpec(
    source="timm:vit_tiny_patch16_224",
    outputs=2,
    channels=1,
    spatial=(32, 32),
    options={"depth": 1, "embed_dim": 24, "num_heads": 2},
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    model = build(SPEC)
    plan = Plan((), fingerprint(model), Costs(1, 1, 1), Costs(1, 1, 1))
    write_bundle(
        folder,
        model,
        spec=SPEC,
        preprocessing=None,
        classes=("a", "b"),
        task="multiclass",
        plan=plan,
        run={},
    )
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "run")
    return tmp_path / "run"


def refused(folder: Path, words: str) -> None:
    with pytest.raises(DebrideError) as caught:
        read_bundle(folder)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 500


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change model.json by somebody who also mends its hash."""
    content = json.loads((folder / "model.json").read_text())
    change(content)
    if "model.json" in content.get("sha256", {}):
        content["sha256"]["model.json"] = own_hash(content)
    (folder / "model.json").write_text(json.dumps(content))


def replace_weights(folder: Path, content: bytes) -> None:
    """Replace the weights by somebody who also mends the hash."""
    (folder / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, lambda manifest: manifest["sha256"].update({"model.safetensors": digest}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    replace_weights(folder, path.read_bytes())


def test_the_sound_one_is_read(folder: Path):
    assert read_bundle(folder).spec == SPEC
    hashes = json.loads((folder / "model.json").read_text())["sha256"]
    assert sorted(hashes) == ["model.json", "model.safetensors", "plan.json", "run.json"]


class Evil:
    def __reduce__(self):
        return Path("evil_was_here").touch, ()


def test_a_pickle_under_the_name_of_safetensors(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace_weights(folder, pickle.dumps(Evil()))
    refused(folder, "is not a valid safetensors file")
    assert not Path("evil_was_here").exists()


HEADERS = {
    "empty": b"",
    "header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "header of 100 GB": struct.pack("<Q", 100 << 30) + b"{" * 100,
    "no JSON": struct.pack("<Q", 8) + b"{nonsens",
    "tensor outside the file": struct.pack("<Q", 62)
    + b'{"a":{"dtype":"F32","shape":[99999],"data_offsets":[0,399996]}}'[:62],
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS.keys())
def test_invalid_safetensors(folder: Path, content: bytes):
    replace_weights(folder, content)
    refused(folder, "is not a valid safetensors file")


def test_changed_weights(folder: Path):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    refused(folder, "its SHA-256 differs from model.json")


def test_changed_plan(folder: Path):
    plan = folder / "plan.json"
    plan.write_text(plan.read_text().replace('"made_by"', ' "made_by"'))
    refused(folder, "plan.json' is not the file that was written")


def test_a_changed_model_json(folder: Path):
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"num_heads": 2', '"num_heads": 4'))
    refused(folder, "model.json' was changed after it was written")


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json", "run.json", "model.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_plain_file(folder: Path, tmp_path: Path, name: str, kind: str):
    path = folder / name
    if kind == "link":
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
        refused(folder, f"{name}' is a link, which is not followed")
        return
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    refused(folder, f"{name}' is not a plain file" if name != "model.json" else "holds no network")


@pytest.mark.parametrize("name", ["model.json", "plan.json", "run.json"])
def test_names_that_stand_twice(folder: Path, name: str):
    path = folder / name
    path.write_text('{"twice": 1, "twice": 2}')
    if name != "model.json":
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(folder, lambda manifest: manifest["sha256"].update({name: digest}))
    refused(folder, f"{name}' is not valid JSON: 'twice' stands there twice")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite(folder: Path, number: str):
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"outputs": 2', f'"outputs": {number}'))
    refused(folder, f"model.json' is not valid JSON: {number} is not a number")


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json", "run.json"])
def test_missing_files(folder: Path, name: str):
    (folder / name).unlink()
    refused(folder, f"{name}'")


def test_no_folder_and_no_model(folder: Path, tmp_path: Path):
    refused(tmp_path / "nowhere", "holds no network")
    (tmp_path / "scans" / "train").mkdir(parents=True)
    refused(tmp_path / "scans", "holds images and no network")
    (folder / "model.json").unlink()
    refused(folder, "holds no network")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("head.bias"), "the tensor 'head.bias' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "a tensor 'extra' that the network does not"),
        (lambda t: t.update({"head.bias": torch.zeros(3)}), "'head.bias' has the shape (3,)"),
        (
            lambda t: t.update({"head.bias": torch.zeros(2).double()}),
            "'head.bias' is torch.float64",
        ),
        (lambda t: t.update({"head.bias": torch.zeros(2).int()}), "'head.bias' is torch.int32"),
        (lambda t: t.update({"__buffer__.x": torch.zeros(1)}), "a tensor '__buffer__.x' that"),
    ],
)
def test_tensors_that_are_not_the_networks(folder: Path, change, words: str):
    change_tensors(folder, change)
    refused(folder, words)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b'"text"', b"null"]
)
def test_model_json_that_is_none(folder: Path, content: bytes):
    (folder / "model.json").write_bytes(content)
    refused(folder, "model.json'")


def spec(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest["spec"].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(schema_version=3), "schema version 3, this Debride reads up to 2"),
        (lambda m: m.update(schema_version="1"), "damaged at 'schema_version'"),
        (lambda m: m.update(schema_version=-1), "damaged at 'schema_version'"),
        (lambda m: m.pop("sha256"), "damaged at 'sha256'"),
        (lambda m: m["sha256"].pop("model.safetensors"), "the hash of the weights is missing"),
        (lambda m: m.update(weights="../../etc/passwd"), "damaged at 'weights'"),
        (lambda m: m["sha256"].update({"../../etc/passwd": "0"}), "damaged at 'sha256.../../etc"),
        (lambda m: m["sha256"].update({"run.json": "0"}), "its SHA-256 differs"),
        (lambda m: m["sha256"].update({"evidence.json": "0"}), "cannot read"),
        (lambda m: m.update(dtype="quint8"), "damaged at 'dtype'"),
        (lambda m: m.update(dtype="float16"), "in the network torch.float16"),
        (lambda m: m.update(task="regression"), "damaged at 'task'"),
        (lambda m: m.update(tied={"head.bias": "norm.bias"}), "cannot be one"),
        (lambda m: m.update(tied={"x": "../y"}), "cannot be one"),
        (lambda m: m.update(channels_last=["head.bias"]), "cannot be in channels-last order"),
        (lambda m: m.update(channels_last=["../x"]), "cannot be in channels-last order"),
        (lambda m: m.update(preprocessing={"spatial": [0, 1]}), "damaged at 'preprocessing"),
        (spec(source="os:system"), "would run code of the package 'os'"),
        (spec(source="../../evil:net"), "would run code of the package '../../evil'"),
        (spec(source="timm:../../evil"), "timm has no network '../../evil'"),
        (spec(source="timm:local-dir:evil"), "timm has no network"),
        (spec(outputs=10**12), "damaged at 'spec.outputs'"),
        (spec(outputs=-1), "damaged at 'spec.outputs'"),
        (lambda m: m.update(task="binary"), "do not make a binary network"),
        (lambda m: m.update(classes=["a", "b", "c"]), "2 outputs for 3 classes do not make"),
        (spec(outputs=3), "the plan was made for another architecture"),
        (spec(spatial=[32]), "the data are 1-D"),
        (spec(options={"checkpoint_path": "/etc/passwd"}), "'checkpoint_path' is not an option"),
        (spec(options={"pretrained": True}), "'pretrained' is not an option"),
        (spec(options={"embed_dim": "x" * 10_000}), "cannot be built"),
        (spec(options={"embed_dim": "x" * 200_000}), "more options than any has"),
        (spec(options={"depth": 10**9}), "larger than any network has"),
        (spec(options={"depth": 30_000}), "far larger than its weights"),
        (spec(options={"embed_dim": [[[[[[[[[[1]]]]]]]]]]}), "more options than any has"),
        (spec(options={"embed_dim": 0}), "cannot be built"),
    ],
)
def test_a_model_json_made_by_hand(folder: Path, change, words: str):
    edit(folder, change)
    refused(folder, words)
