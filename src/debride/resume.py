"""The state of an unfinished training: one safetensors file, written at the end of each epoch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.files import UNFINISHED

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Best:
    """The best epoch so far and a copy of its weights."""

    epoch: int
    metric: float
    loss: float
    weights: Mapping[str, Tensor]

    def replaced(self, model: nn.Module, epoch: int, metric: float, loss: float) -> Best:
        """Take the present weights as the best ones."""
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return Best(epoch, metric, loss, weights)

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back into the network."""
        if self.weights:
            model.load_state_dict(dict(self.weights))


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    history: list[dict[str, Any]]
    best: Best

    @classmethod
    def start(cls, model: nn.Module, measured: tuple[float, float] | None = None) -> Progress:
        """Give the state before the first epoch; where it was measured it is the best so far."""
        best = Best(0, -1.0, float("inf"), {})
        return cls([], best if measured is None else best.replaced(model, 0, *measured))


def write_progress(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write everything that the next epoch depends on; the older state is replaced at once.

    Raises
    ------
    DebrideError
        When the folder cannot be written.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{key}.{name}": state[key] for key in _MOMENTS if key in state}
    best = progress.best
    # The best epoch is mostly the last one: its weights are the model's then.
    if best.epoch != len(progress.history):
        tensors |= {f"best.{name}": value for name, value in best.weights.items()}
    state_json = {
        "settings": dict(settings),
        "history": progress.history,
        "best": {"epoch": best.epoch, "metric": best.metric, "loss": best.loss},
        "network": _network(model),
    }
    target = folder / UNFINISHED
    temporary = folder / f".{UNFINISHED}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
        save_file(_unshared(plain), temporary, metadata={"state": json.dumps(state_json)})
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            folder.rmdir()  # where nothing else is in it
        raise DebrideError(f"cannot write '{target}': {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_progress(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
) -> Progress | None:
    """Put network and optimizer into the state of the folder; None where there is none.

    Raises
    ------
    DebrideError
        When the file is damaged or belongs to a training with other settings.
    """
    if not (folder / UNFINISHED).is_file():
        return None
    state, tensors = _read(folder)
    _same_settings(folder, state["settings"], settings)
    if state["network"] != _network(model):
        raise _other(folder, "another network")
    model.load_state_dict(_under("model.", tensors))
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" in tensors:
            device = parameter.device
            kept = {key: tensors[f"{key}.{name}"] for key in _MOMENTS}
            optimizer.state[parameter] = {
                # The moments take the parameter's layout; the step count is a scalar tensor.
                key: torch.empty_like(parameter if value.dim() else value, device=device).copy_(
                    value
                )
                for key, value in kept.items()
            }
    history, best = state["history"], state["best"]
    weights = _under("best.", tensors) or {
        name: value.detach().clone() for name, value in model.state_dict().items()
    }
    return Progress(history, Best(best["epoch"], best["metric"], best["loss"], weights))


def check_progress(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Tell whether a folder holds an unfinished training, before any image is read.

    Parameters
    ----------
    settings
        What is already known of the settings that `read_progress` will compare.

    Raises
    ------
    DebrideError
        When the file is damaged or belongs to a training with other settings.
    """
    if not (folder / UNFINISHED).is_file():
        return False
    _same_settings(folder, _read(folder, weights=False)[0]["settings"], settings)
    return True


def kept_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the unfinished training in a folder; None where there is none.

    Raises
    ------
    DebrideError
        When the file is damaged.
    """
    if not (folder / UNFINISHED).is_file():
        return None
    settings: dict[str, Any] = _read(folder, weights=False)[0]["settings"]
    return settings


def remove_progress(folder: Path) -> None:
    """Remove the state of a training, and its folder where nothing else is in it."""
    (folder / UNFINISHED).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _read(folder: Path, *, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = folder / UNFINISHED
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            names = file.keys() if weights else ()
            return state, {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DebrideError(f"'{path}' is damaged ({error}): delete it to start anew") from error


def _same_settings(folder: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    different = [
        f"{name} {kept.get(name)} instead of {value}"
        for name, value in given.items()
        if kept.get(name) != value
    ]
    if different:
        raise _other(folder, ", ".join(different))


def _other(folder: Path, what: str) -> DebrideError:
    return DebrideError(
        f"'{folder}' holds an unfinished training with {what}: finish it with the settings it "
        f"began with, or delete '{folder / UNFINISHED}' to start anew"
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what shares memory (tied weights), which the file format does not know."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, value in tensors.items():
        apart[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    return apart


def _network(model: nn.Module) -> str:
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()
