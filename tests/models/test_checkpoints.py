"""Checkpoints as people have them: wrapped, prefixed, with other heads, and hostile."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.models.checkpoints import infer_fit, load_state, read_state


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


STATE = small().state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        prefixed("module."),
        prefixed("_orig_mod.module."),
        {"state_dict": prefixed("model."), "epoch": 3, "pytorch-lightning_version": "2.4"},
        {"state_dict": prefixed("net.") | {"criterion.weight": torch.ones(2)}, "epoch": 1},
        {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}, "loss": 0.3},
        {"model": STATE, "args": {"lr": 0.1}},
        {"net": prefixed("module."), "acc": 91.0},
        prefixed("module.") | {"n_averaged": torch.tensor(5)},
        {"state_dict": STATE, "best": np.float64(0.5), "epoch": np.int64(3), "done": np.bool_(1)},
        {"model_ema": prefixed("module."), "epoch": 3},
        {"state_dict_ema": STATE, "optimizer": {"state": {}}},
        {"ema_state_dict": STATE},
    ],
)
def test_wrappers_and_prefixes_come_off(content, tmp_path: Path):
    torch.save(content, tmp_path / "c.pt")
    state = read_state(tmp_path / "c.pt")
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    model = small()
    nn.init.zeros_(model[3].weight)
    load_state(model, state, where="c.pt")
    assert torch.equal(model[3].weight, STATE["3.weight"])


def test_safetensors(tmp_path: Path):
    save_file(prefixed("module."), tmp_path / "c.safetensors")
    assert read_state(tmp_path / "c.safetensors").keys() == STATE.keys()


@pytest.mark.parametrize("prefix", ["model.", "encoder.backbone."])
def test_tensors_beside_the_network_are_left_out(prefix: str):
    state = prefixed(prefix) | {"train_auc.confmat": torch.ones(2, 2), "temperature": torch.ones(1)}
    model = small()
    nn.init.zeros_(model[3].weight)
    load_state(model, state, where="c.ckpt")
    assert torch.equal(model[3].weight, STATE["3.weight"])
    with pytest.raises(DebrideError, match="'temperature' is unknown to the network"):
        load_state(model, STATE | {"temperature": torch.ones(1)}, where="c.pt")


def test_a_network_whose_own_names_have_the_prefix_takes_both_forms():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = small()

    for state in (STATE, prefixed("model.")):
        model = Wrapped()
        nn.init.zeros_(model.model[3].weight)
        load_state(model, state, where="c")
        assert torch.equal(model.model[3].weight, STATE["3.weight"])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil_was_here",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": STATE, "config": Evil()}, "evil.pt")
    with pytest.raises(
        DebrideError, match=r"would run its code: where it was made, run torch.save"
    ):
        read_state("evil.pt")
    torch.save(small(), "whole.pt")
    with pytest.raises(DebrideError, match=r"model\.state_dict\(\)"):
        read_state("whole.pt")
    assert not Path("evil_was_here").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut off"])
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DebrideError) as caught:
        read_state(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scripts_and_cut_off_files_are_named_without_bad_advice(tmp_path: Path):
    torch.jit.save(torch.jit.script(small()), tmp_path / "script.pt")
    torch.save({"weight": torch.zeros(5000)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for length in (3, 1000, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(DebrideError, match=r"cut\.pt' is damaged, cut off") as caught:
            read_state(tmp_path / "cut.pt")
        assert "weights_only" not in str(caught.value)
    with pytest.raises(DebrideError, match=r"is TorchScript.*torch\.jit\.load") as caught:
        read_state(tmp_path / "script.pt")
    assert "weights_only" not in str(caught.value)


def test_a_pickle_called_safetensors_is_refused(tmp_path: Path):
    torch.save(STATE, tmp_path / "c.safetensors")
    with pytest.raises(DebrideError, match="is not a safetensors file"):
        read_state(tmp_path / "c.safetensors")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3), {}])
def test_a_file_without_weights_says_what_it_holds(tmp_path: Path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(DebrideError, match="holds no weights by name"):
        read_state(tmp_path / "c.pt")


def test_no_such_file(tmp_path: Path):
    with pytest.raises(DebrideError, match="no checkpoint"):
        read_state(tmp_path / "c.pt")


def test_a_checkpoint_that_does_not_fit_names_the_first_differences_and_changes_nothing():
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = dict(STATE) | {"3.weight": torch.zeros(9, 4), "head.bias": torch.zeros(2)}
    del state["0.bias"]
    with pytest.raises(DebrideError) as caught:
        load_state(model, state, where="'c.pt'")
    message = str(caught.value)
    assert "'c.pt' does not fit Sequential: '0.bias' is missing from it" in message
    assert "'head.bias' is unknown to the network" in message
    assert "'3.weight' is (9, 4), the network has (2, 4)" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_missing_batch_counter_is_no_difference():
    state = {name: tensor for name, tensor in STATE.items() if "num_batches" not in name}
    load_state(small(), state, where="old.pt")


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("torchvision:resnet18", 32),
        ("torchvision:mobilenet_v3_small", 32),
        ("timm:vit_tiny_patch16_224", 32),
        ("monai:DenseNet121", 32),
    ],
)
def test_outputs_and_channels_are_read_off(source, size):
    true = ModelSpec(source=source, outputs=9, channels=4, spatial=(size, size))
    state = build(true, device="meta").state_dict()
    guess = true.model_copy(update={"outputs": 2, "channels": 3})
    assert infer_fit(state, guess) == true
    assert infer_fit({"unrelated": torch.zeros(3)}, guess) == guess
