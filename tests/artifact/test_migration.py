"""Folders that an earlier Debride wrote are still read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from debride.artifact.bundle import read_bundle
from debride.artifact.migration import SCHEMA_VERSION, migrated
from debride.models import ModelSpec, build
from debride.planning.plan import Plan
from debride.surgery.removal import apply

GOLDEN = Path(__file__).parent / "goldens" / "version1"


def test_a_folder_of_version_1_is_read(tmp_path: Path):
    """All is as version 1 wrote it but the weights, which are made here with their hash."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN, folder)
    content = json.loads((folder / "model.json").read_text())
    assert content["schema_version"] == 1
    plan = Plan.from_json((folder / "plan.json").read_text())
    model = apply(build(ModelSpec(**content["spec"])), plan).eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    weights = (folder / "model.safetensors").read_bytes()
    content["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (folder / "model.json").write_text(json.dumps(content))

    bundle = read_bundle(folder)
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bundle.model(images), model(images))
    assert bundle.model.blocks[0].mlp.fc1.out_features == 12
    assert bundle.classes == ("normal", "pneumonia")
    assert bundle.run == {"command": "prune", "settings": {"seed": 3}}
    assert bundle.plan == plan


def test_every_step_leads_to_the_present():
    old = {"schema_version": 1, "weights_sha256": "a", "plan_sha256": "b", "network": "Net"}
    assert migrated(old) == {
        "schema_version": SCHEMA_VERSION,
        "sha256": {"model.safetensors": "a", "plan.json": "b"},
        "network": "Net",
    }
    assert old["weights_sha256"] == "a"


def test_what_no_migration_knows_stays():
    for content in ({}, {"schema_version": 99}, {"schema_version": "1"}, {"schema_version": True}):
        assert migrated(content) == content
