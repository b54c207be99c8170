"""An ONNX file computes what its network does, and says so truly."""

from __future__ import annotations

import copy
import importlib.util
import logging
from pathlib import Path

import onnx
import pytest
import torch
from monai.networks import nets
from torch import nn

from debride.artifact import onnx as ours
from debride.artifact.onnx import OnnxNetwork, Parity, compare, export_onnx
from debride.artifact.quantisation import quantise
from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.planning.groups import find_groups
from debride.surgery.removal import narrow


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip


def images(count: int = 4, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *(shape or (1, 16, 16)), generator=generator)


def cut(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """Keep a third of one half of the groups, and half of the others."""
    groups = find_groups(model, example).groups
    assert groups
    smaller = copy.deepcopy(model)
    narrow(smaller, [g.planned(range(0, g.units, 2 + i % 2)) for i, g in enumerate(groups)])
    return smaller.eval()


def spec(source: str, size: int, **options: object) -> ModelSpec:
    return ModelSpec(source=source, outputs=3, channels=1, spatial=(size, size), options=options)


CLASSIFIERS = [
    spec("torchvision:resnet18", 32),
    spec("timm:vit_tiny_patch16_224", 32, depth=2),
    spec("monai:DenseNet121", 32, block_config=[2, 2]),
]


@pytest.mark.slow
@pytest.mark.parametrize("made", CLASSIFIERS, ids=lambda each: each.source)
def test_pruned_networks_compute_the_same_at_any_batch_size(tmp_path: Path, made: ModelSpec):
    computes_the_same(cut(build(made).eval(), images(1, 1, 32, 32)), (1, 32, 32), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
def test_networks_that_segment_compute_the_same(tmp_path: Path, dimensions: int):
    torch.manual_seed(0)
    model = nets.UNet(dimensions, 1, 2, (4, 8, 16), (2, 2), num_res_units=1).eval()
    computes_the_same(model, (1, *[16] * dimensions), tmp_path)


def computes_the_same(model: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    export_onnx(model, images(1, *shape), tmp_path / "net.onnx")
    network = OnnxNetwork(tmp_path / "net.onnx")
    every = images(5, *shape)
    found = compare(model, network, [every[:1], every[1:3], every])
    assert found.images == 8
    assert found.relative < 1e-5
    assert found.top1 == 1
    assert network(every[:1]).shape == model(every[:1]).shape


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[nn.Module, Path, int]:
    model = small().train()
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    return model, path, export_onnx(model, images(), path, notes={"classes": '["a"]'})


def test_the_file_says_what_it_takes_and_nothing_of_the_machine(exported):
    model, path, opset = exported
    again = small()
    assert all(module.training for module in model.modules())
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )
    assert all(parameter.requires_grad for parameter in model.parameters())

    content = path.read_bytes()
    for word in (b"site-packages", b".py", str(Path.cwd()).encode()):
        assert word not in content
    loaded = onnx.load(path)
    assert [entry.version for entry in loaded.opset_import] == [opset]
    assert {entry.key: entry.value for entry in loaded.metadata_props} == {"classes": '["a"]'}
    [given], [output] = loaded.graph.input, loaded.graph.output
    assert (given.name, output.name) == ("image", "logits")
    sizes = [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, 16, 16]
    assert compare(model, OnnxNetwork(path), [images()[:1], images()]).passed
    assert model.training


class Shifted(nn.Module):
    def __init__(self, network: nn.Module, shift: list[float]) -> None:
        super().__init__()
        self.network, self.shift = network, torch.tensor(shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) + self.shift


def test_what_parity_counts(tmp_path: Path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    network[1].weight.data.copy_(torch.eye(2))
    export_onnx(network, torch.zeros(1, 1, 1, 2), tmp_path / "net.onnx")
    stored = OnnxNetwork(tmp_path / "net.onnx")
    batch = torch.tensor([[3.0, 1.0], [1.0, 0.75], [0.0, 4.0]]).view(3, 1, 1, 2)

    assert compare(network, stored, [batch]) == Parity(3, 0.0, 0.0, 1.0)
    # the outputs become (3, 1.5), (1, 1.25) and (0, 4.5): one decision of three is another
    shifted = Shifted(network, [0.0, 0.5])
    assert compare(shifted, stored, [batch[:1], batch[1:]]) == Parity(3, 0.5, 0.5 / 4.5, 2 / 3)
    # with labels that stand alone, (0, ...) - 0.5 is the only one of six to change sides
    below = Shifted(network, [-0.9, 0.0])
    found = compare(below, stored, [batch], multilabel=True)
    assert (found.top1, round(found.max_abs, 6)) == (1.0, 0.9)
    assert compare(Shifted(network, [-2.0, 0.0]), stored, [batch], multilabel=True).top1 == 5 / 6
    broken = compare(Shifted(network, [float("nan"), 0.0]), stored, [batch])
    assert not broken.passed
    with pytest.raises(DebrideError, match="no images to compare"):
        compare(network, stored, [])


def test_the_logits_of_a_dictionary_are_the_output(tmp_path: Path):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            hidden = self.body(x.flatten(2))
            return {"hidden": hidden, "logits": hidden.mean(1)}

    model = Both().eval()
    batch = images(3, 5, 4, 4)
    export_onnx(model, batch, tmp_path / "net.onnx")
    given = OnnxNetwork(tmp_path / "net.onnx")(batch)
    assert torch.allclose(given, model(batch)["logits"], atol=1e-6)


def test_large_weights_stand_beside_the_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ours, "LARGEST_FILE", 2000)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    export_onnx(model, images(), tmp_path / "net.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert (tmp_path / "net.onnx.data").stat().st_size >= 256 * 32 * 4
    assert compare(model, OnnxNetwork(tmp_path / "net.onnx"), [images()]).passed


def test_a_network_that_cannot_be_traced(tmp_path: Path, capfd):
    class Fickle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] if x.sum() > 0 else -x.flatten(1)[:, :2]

    with pytest.raises(DebrideError, match="this Fickle cannot be exported to ONNX") as caught:
        export_onnx(Fickle(), images(), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_command_is_named(tmp_path: Path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name)
    )
    with pytest.raises(DebrideError, match=r"needs onnx: pip install 'debride\[onnx\]'"):
        export_onnx(small(), images(), tmp_path / "net.onnx")


def test_a_file_that_is_none(tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    with pytest.raises(DebrideError, match=r"onnxruntime cannot read '.*net.onnx'"):
        OnnxNetwork(tmp_path / "net.onnx")


@pytest.mark.parametrize("per_channel", [True, False])
def test_int8_holds_its_weights_in_a_byte_each(exported, tmp_path: Path, per_channel: bool):
    model, path, _ = exported
    logs = logging.root.handlers[:], logging.root.manager.disable
    batches = [images(8), images(8) * 1.5]
    quantise(path, tmp_path / "int8.onnx", batches, per_channel=per_channel)
    assert (logging.root.handlers, logging.root.manager.disable) == logs
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]

    loaded = onnx.load(tmp_path / "int8.onnx")
    kinds = {entry.name: entry.data_type for entry in loaded.graph.initializer}
    weights = [name for name in kinds if name.endswith("weight_quantized")]
    assert len(weights) == 3
    assert {kinds[name] for name in weights} == {onnx.TensorProto.INT8}
    scales = {e.name: list(e.dims) for e in loaded.graph.initializer if "weight_scale" in e.name}
    assert sorted(scales.values()) == ([[3], [4], [8]] if per_channel else [[], [], []])
    assert {entry.key: entry.value for entry in loaded.metadata_props}["classes"] == '["a"]'
    # 8 bits leave errors of about 1/256 of the range, over three layers
    found = compare(model, OnnxNetwork(tmp_path / "int8.onnx"), [images(8)])
    assert 1e-4 < found.relative < 0.05
    assert not found.passed
