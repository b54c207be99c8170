"""Networks from every source, fitted to the data, with errors that help."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from debride.errors import DebrideError
from debride.models import ModelSpec, build, logits
from debride.models.registry import _SOURCES, register_model_source


def spec_of(source: str, *, channels: int = 1, size: tuple[int, ...] = (32, 32), options=None):
    return ModelSpec(
        source=source, outputs=3, channels=channels, spatial=size, options=options or {}
    )


CASES = [
    ("torchvision:resnet18", (32, 32), {}),
    ("torchvision:mobilenet_v3_small", (32, 32), {}),
    ("torchvision:swin_t", (32, 32), {}),
    ("torchvision:vit_b_32", (64, 64), {}),
    ("torchvision:googlenet", (64, 64), {}),
    ("torchvision:r3d_18", (16, 32, 32), {}),
    ("timm:resnet10t", (32, 32), {}),
    ("timm:vit_tiny_patch16_224", (64, 64), {"depth": 2}),
    ("monai:DenseNet121", (32, 32), {"block_config": [2, 2]}),
    ("monai:DenseNet121", (16, 16, 16), {"block_config": [1, 1]}),
    ("monai:resnet10", (16, 16, 16), {}),
    ("monai:SEResNet50", (32, 32), {"layers": [1, 1, 1, 1]}),
    ("monai:EfficientNetBN", (32, 32), {"model_name": "efficientnet-b0"}),
    ("monai:Classifier", (32, 32), {"channels": [4, 4], "strides": [2, 2]}),
]


@pytest.mark.parametrize(("source", "size", "options"), CASES)
def test_outputs_channels_and_size_are_fitted_here_and_on_meta(source, size, options):
    spec = spec_of(source, size=size, options=options)
    model = build(spec).eval()
    shadow = build(spec, device="meta")
    with torch.inference_mode():
        assert logits(model(torch.zeros(2, 1, *size))).shape == (2, 3)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in shadow.state_dict().items()}
    assert all(parameter.is_meta for parameter in shadow.parameters())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_replaced_first_convolution_keeps_the_output_variance(channels):
    usual = build(spec_of("torchvision:resnet18", channels=3)).conv1
    fitted = build(spec_of("torchvision:resnet18", channels=channels)).conv1
    assert fitted.in_channels == channels
    assert fitted.weight.shape == (64, channels, 7, 7)
    expected = float(usual.weight.detach().var()) * 3 / channels
    assert float(fitted.weight.detach().var()) == pytest.approx(expected, rel=0.1)


def test_weights_follow_the_seed_and_random_states_stay():
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    spec = spec_of("torchvision:mobilenet_v3_small")
    first, again, other = build(spec), build(spec), build(spec, seed=1)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert torch.equal(first.features[0][0].weight, again.features[0][0].weight)
    assert not torch.equal(first.features[0][0].weight, other.features[0][0].weight)


ERRORS = [
    ("torchvision:resnet81", (32, 32), {}, "did you mean torchvision:resnet18"),
    ("timm:resnet1O", (32, 32), {}, "did you mean timm:resnet"),
    ("monai:DenseNet212", (32, 32), {}, "monai:DenseNet121"),
    ("torchvison:resnet18", (32, 32), {}, "did you mean 'torchvision:resnet18'"),
    ("resnet18", (32, 32), {}, "for example torchvision:resnet18"),
    ("timm:", (32, 32), {}, "give torchvision:NAME"),
    ("timm:hf-hub:some/where", (32, 32), {}, "timm has no network"),
    ("torchvision:resnet18", (8, 32, 32), {}, "takes 2-D images, the data are 3-D"),
    ("torchvision:r3d_18", (32, 32), {}, "takes 3-D images, the data are 2-D"),
    ("timm:resnet18", (8, 32, 32), {}, "the data are 3-D"),
    ("torchvision:vit_b_32", (32, 64), {}, "square images only, not 32x64"),
    ("torchvision:resnet18", (32, 32), {"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
    ("torchvision:resnet18", (32, 32), {"weights": "DEFAULT"}, "'weights' is not an option"),
    ("timm:resnet18", (32, 32), {"checkpoint_path": "/etc/passwd"}, "'checkpoint_path' is not"),
    ("timm:resnet18", (32, 32), {"pretrained": True}, "'pretrained' is not an option"),
    ("monai:EfficientNetBN", (32, 32), {"pretrained": True}, "'pretrained' is not an option"),
    ("monai:EfficientNetBN", (32, 32), {}, "needs model_name"),
]


@pytest.mark.parametrize(("source", "size", "options", "words"), ERRORS)
def test_errors_name_what_is_wrong_and_the_way_out(source, size, options, words):
    with pytest.raises(DebrideError) as caught:
        build(spec_of(source, size=size, options=options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"outputs": 0}, {"channels": 0}, {"spatial": (0, 4)}])
def test_a_spec_is_checked(wrong):
    fields = {"source": "timm:resnet18", "outputs": 2, "channels": 1, "spatial": (32, 32)}
    with pytest.raises(ValidationError):
        ModelSpec(**(fields | wrong))


@pytest.fixture
def package(tmp_path: Path, monkeypatch):
    code = """
from torch import nn
ran = True
def small(num_classes, in_chans, width=4):
    return nn.Sequential(nn.Conv2d(in_chans, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))
def no_module():
    return 3
def broken():
    raise KeyError("weights/first.bin")
"""
    (tmp_path / "our_networks.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    yield "our_networks"
    sys.modules.pop("our_networks", None)


def test_a_package_runs_only_when_trusted(package):
    spec = spec_of(f"{package}:small", options={"width": 6})
    with pytest.raises(DebrideError, match="would run code of the package 'our_networks'"):
        build(spec)
    assert package not in sys.modules
    path = list(sys.path)
    model = build(spec, trust=True)
    assert sys.path == path
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert model[0].out_channels == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("our_networks:missing", "has no function or class 'missing'"),
        ("our_networks:no_module", "returns int, not a torch.nn.Module"),
        ("our_networks:broken", "failed with KeyError"),
        ("not_there_at_all:net", "cannot import 'not_there_at_all'"),
    ],
)
def test_a_package_that_fails_is_named(package, name, words):
    with pytest.raises(DebrideError, match=words):
        build(spec_of(name), trust=True)


def test_a_source_is_added_by_a_decorator():
    @register_model_source("flat")
    def flat(name: str, spec: ModelSpec) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(name), spec.outputs))

    try:
        assert build(spec_of("flat:64", size=(8, 8)))(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    finally:
        del _SOURCES["flat"]
