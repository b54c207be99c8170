"""A network comes back from its folder with bit-equal outputs."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from debride.artifact.bundle import load, read_bundle, write_bundle
from debride.artifact.manifest import read_manifest
from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.planning.costs import Costs
from debride.planning.groups import find_groups
from debride.planning.plan import Plan, fingerprint
from debride.pruning import Pruned, StepRecord
from debride.surgery.removal import apply

PREPARED = Preprocessing(spatial=(32, 32), channels=1, mean=(0.4,), std=(0.2,))


def write(folder: Path, model: nn.Module, spec: ModelSpec | None = None, **choices) -> Path:
    fields = {"preprocessing": PREPARED, "classes": ("no", "yes"), "task": "multiclass", "run": {}}
    write_bundle(folder, model, spec=spec, **(fields | choices))
    return folder


def used(spec: ModelSpec) -> nn.Module:
    """A network whose batch-norm statistics are not the initial ones."""
    model = build(spec)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model.eval()


def outputs(model: nn.Module, size: tuple[int, ...] = (1, 32, 32)) -> torch.Tensor:
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model(images)


def spec_of(source: str, size: int = 32, **options) -> ModelSpec:
    return ModelSpec(source=source, outputs=2, channels=1, spatial=(size, size), options=options)


def halved(model: nn.Module) -> Plan:
    """Keep every second channel, and three in one layer."""
    groups = [
        group.planned((0, 5, 6) if "layer2.0.conv1" in group.name else range(0, group.units, 2))
        for group in find_groups(model, torch.zeros(1, 1, 32, 32)).groups
    ]
    return Plan(tuple(groups), fingerprint(model), Costs(2, 2, 2), Costs(1, 1, 1))


@pytest.mark.parametrize(
    "spec",
    [
        spec_of("torchvision:resnet18"),
        spec_of("torchvision:mobilenet_v3_small"),
        spec_of("torchvision:swin_t"),
        spec_of("timm:vit_tiny_patch16_224", depth=2),
        spec_of("timm:swin_tiny_patch4_window7_224", size=56, depths=[1, 1, 1, 1]),
        spec_of("monai:DenseNet121", block_config=[2, 2]),
    ],
    ids=lambda spec: spec.source,
)
def test_outputs_are_bit_equal(tmp_path: Path, spec: ModelSpec):
    model = used(spec)
    folder = write(tmp_path / "run", model, spec)
    size = (1, *spec.spatial)
    again = load(folder)
    assert torch.equal(outputs(model, size), outputs(again, size))
    assert not any(module.training for module in again.modules())
    assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])
    assert torch.equal(outputs(model, size), outputs(load(folder, model), size))


def test_a_pruned_network_comes_back(tmp_path: Path):
    spec = spec_of("torchvision:resnet18")
    original = used(spec)
    plan = halved(original)
    smaller = apply(original, plan).eval()
    folder = write(tmp_path / "half", smaller, spec, plan=plan, run={"history": [1]})
    bundle = read_bundle(folder)
    assert torch.equal(outputs(smaller), outputs(bundle.model))
    assert bundle.model.layer2[0].conv1.weight.shape == (3, 32, 3, 3)
    assert bundle.plan == plan
    assert bundle.spec == spec
    assert bundle.preprocessing == PREPARED
    assert (bundle.classes, bundle.task, bundle.run) == (
        ("no", "yes"),
        "multiclass",
        {"history": [1]},
    )
    assert bundle.evidence is None
    assert sum(p.numel() for p in bundle.model.parameters()) < sum(
        p.numel() for p in original.parameters()
    )


@pytest.mark.parametrize(
    "spec",
    [
        spec_of("torchvision:mobilenet_v3_small"),
        spec_of("timm:vit_tiny_patch16_224", depth=2),
        spec_of("monai:DenseNet121", block_config=[2, 2]),
    ],
    ids=lambda spec: spec.source,
)
def test_other_families_come_back_pruned(tmp_path: Path, spec: ModelSpec):
    original = used(spec)
    plan = halved(original)
    smaller = apply(original, plan).eval()
    assert plan.groups
    folder = write(tmp_path / "half", smaller, spec, plan=plan)
    assert torch.equal(outputs(smaller), outputs(load(folder)))
    assert torch.equal(outputs(smaller), outputs(load(folder, original)))


class Own(nn.Module):
    """Tied weights, a buffer that is not persistent, one in double precision, a number."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("hidden", torch.full((16,), scale), persistent=False)
        self.register_buffer("precise", torch.full((16,), 1 / 3, dtype=torch.float64))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.first(x.flatten(1)[:, :16]) * self.hidden))
        return x * self.scale * self.precise.float()


def test_ties_hidden_buffers_and_types_survive(tmp_path: Path):
    model = Own()
    model.hidden.copy_(torch.arange(16.0))
    folder = write(tmp_path / "own", model)
    fresh = Own()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    again = load(folder, fresh)
    assert torch.equal(outputs(model), outputs(again))
    assert again.second.weight is again.first.weight
    assert isinstance(again.first.weight, nn.Parameter)
    assert again.precise.dtype == torch.float64
    assert torch.equal(again.hidden, model.hidden)
    assert fresh.training
    assert not any(t.is_meta for t in [*fresh.parameters(), *fresh.buffers()])
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


def test_the_users_own_class_is_asked_for(tmp_path: Path):
    folder = write(tmp_path / "own", Own())
    with pytest.raises(DebrideError, match=r"your own class .*Own.*debride\.load\(folder, model="):
        load(folder)
    assert not (folder / "predict.py").exists()


def test_half_precision_comes_back_as_it_was(tmp_path: Path):
    spec = spec_of("torchvision:mobilenet_v3_small")
    model = used(spec).to(torch.bfloat16)
    again = load(write(tmp_path / "run", model, spec))
    assert again.classifier[0].weight.dtype == torch.bfloat16
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_memory_order_is_kept(tmp_path: Path):
    spec = spec_of("torchvision:resnet18")
    model = used(spec).to(memory_format=torch.channels_last)
    again = load(write(tmp_path / "run", model, spec))
    strides = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    assert strides == {name: tensor.stride() for name, tensor in again.state_dict().items()}
    assert torch.equal(outputs(model), outputs(again))


def test_a_constructor_that_needs_values_is_built_for_real(tmp_path: Path, monkeypatch):
    code = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.fc = nn.Linear(32, outputs)
        self.table = torch.linspace(0, 1, 32)
    def forward(self, x):
        return self.fc(x[:, 0, 0] * self.table)
"""
    (tmp_path / "nets_with_tables.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    spec = spec_of("nets_with_tables:Net")
    model = build(spec, trust=True).eval()
    folder = write(tmp_path / "run", model, spec)
    with pytest.raises(DebrideError, match="would run code of the package 'nets_with_tables'"):
        load(folder)
    assert torch.equal(outputs(model), outputs(load(folder, trust=True)))
    assert torch.equal(outputs(model), outputs(load(folder, model)))


def test_save_writes_what_prune_returns(tmp_path: Path):
    original = used(spec_of("torchvision:resnet18"))
    plan = halved(original)
    smaller = apply(original, plan).eval()
    history = (StepRecord(0, 1.0, 1.0, 1.0, 0.9, 0.9),)
    Pruned(smaller, plan, None, history, {"seed": 3}).save(tmp_path / "half")
    assert torch.equal(outputs(smaller), outputs(load(tmp_path / "half", original)))
    run = read_bundle(tmp_path / "half", model=original).run
    assert run["history"][0]["after_recovery"] == 0.9
    assert run["settings"] == {"seed": 3}
    assert run["versions"]["torch"] == torch.__version__


def test_a_run_takes_the_place_of_the_last_one_and_nothing_else(tmp_path: Path):
    spec = spec_of("torchvision:mobilenet_v3_small")
    model = used(spec)
    folder = write(tmp_path / "run", model, spec, texts={"report.html": "<p>old</p>"})
    (folder / "notes.txt").write_text("mine")
    write(folder, model, spec)
    assert not (folder / "report.html").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.png").write_bytes(b"x")
    with pytest.raises(DebrideError, match="holds something that is not Debride's"):
        write(other, model, spec)
    assert [path.name for path in other.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_folder_and_no_other(tmp_path: Path):
    spec = spec_of("torchvision:mobilenet_v3_small")
    model = used(spec)
    folder = write(tmp_path / "run", model, spec)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DebrideError, match=r"'run.json' cannot be written as JSON"):
        write(folder, model, spec, run={"bad": {1, 2}})
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_files_can_be_read_by_those_who_can_read_the_folder(tmp_path: Path):
    folder = write(tmp_path / "run", Own())
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_predict_py_classifies_from_the_folder_alone(tmp_path: Path, monkeypatch):
    spec = spec_of("torchvision:mobilenet_v3_small")
    folder = write(tmp_path / "run", used(spec), spec)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    moved = tmp_path / "moved"
    folder.rename(moved)
    lines = [line for line in (moved / "predict.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 12

    command = [sys.executable, str(moved / "predict.py"), "a.png", "a.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    [(name, chance)] = read_bundle(moved).classify(tmp_path / "a.png")
    assert done.stdout.splitlines() == [f"a.png {name} {chance:.3f}"] * 2
    monkeypatch.setattr(sys, "argv", ["predict.py", "missing.png"])
    with pytest.raises(SystemExit, match=r"error: no file 'missing.png': give an existing image"):
        runpy.run_path(str(moved / "predict.py"))
    (tmp_path / "scan").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setattr(sys, "argv", ["predict.py", str(tmp_path / "scan")])
    with pytest.raises(SystemExit, match=r"error: cannot read .*scan': it is DICOM.* as PNG$"):
        runpy.run_path(str(moved / "predict.py"))


def test_classify_says_every_label_above_one_half(tmp_path: Path):
    spec = spec_of("torchvision:mobilenet_v3_small")
    model = used(spec)
    with torch.no_grad():
        model.classifier[3].weight.zero_()
        model.classifier[3].bias.copy_(torch.tensor([2.0, -2.0]))
    folder = write(tmp_path / "run", model, spec, task="multilabel")
    [(name, chance)] = read_bundle(folder).classify(_image(tmp_path))
    assert (name, round(chance, 4)) == ("no", 0.8808)


def test_classify_without_preprocessing_says_so(tmp_path: Path):
    folder = write(tmp_path / "run", Own(), preprocessing=None)
    with pytest.raises(DebrideError, match="does not say how images are prepared"):
        read_bundle(folder, model=Own()).classify(_image(tmp_path))


def _image(folder: Path) -> Path:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(folder / "zero.png")
    return folder / "zero.png"


def test_model_json_is_readable(tmp_path: Path):
    spec = spec_of("torchvision:mobilenet_v3_small")
    folder = write(tmp_path / "run", used(spec), spec)
    content = json.loads((folder / "model.json").read_text())
    assert content["spec"]["source"] == "torchvision:mobilenet_v3_small"
    assert content["classes"] == ["no", "yes"]
    assert read_manifest(folder).sha256 == content["sha256"]
