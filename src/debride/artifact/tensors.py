"""All tensors of a network to and from one safetensors file, without pickle.

A state dict leaves out three things that a network may need to give the same output again:
buffers that are not persistent, which tensors are one and the same, and memory layout, which
decides between convolution algorithms. They are kept here too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from debride.errors import DebrideError
from debride.models.registry import first_line

BUFFER = "__buffer__."
"""Prefix of the buffers that the state dict leaves out."""


@dataclass(frozen=True)
class Layout:
    """What the file of tensors cannot say.

    Attributes
    ----------
    tied
        Name of a tensor that is not stored, to the name of the one that it is.
    channels_last
        Names of the tensors held in that memory format.
    """

    tied: Mapping[str, str]
    channels_last: tuple[str, ...]


def write_tensors(model: nn.Module, path: Path) -> Layout:
    """Write every parameter and buffer.

    Raises
    ------
    DebrideError
        When the network keeps something else in its state.
    OSError
        When the disk is full; `files.staged_folder` says where.
    """
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    layout: list[str] = []
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in _all_tensors(model):
        identity = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and first.setdefault(identity, name) != name:
            tied[name] = first[identity]
            continue
        if _is_channels_last(tensor):
            layout.append(name)
        # A copy, as the format refuses tensors that are parts of one storage.
        stored[name] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
    try:
        save_file(stored, path)
    except SafetensorError as error:
        raise OSError(first_line(error)) from error
    return Layout(tied, tuple(layout))


def read_tensors(model: nn.Module, path: Path, layout: Layout) -> None:
    """Give a network built on the meta device the tensors that `write_tensors` wrote.

    A linear layer or convolution without a bias may have got one.

    Raises
    ------
    DebrideError
        When the file is damaged, or its tensors are not the network's.
    """
    given = _read(path)
    _add_biases(model, given)
    expected = dict(_all_tensors(model))
    for alias, name in layout.tied.items():
        if alias in given or name not in given:
            raise DebrideError(f"'{path}': the tensors '{alias}' and '{name}' cannot be one")
        given[alias] = given[name]
    _compare(expected, given, path)
    for name in layout.channels_last:
        if name not in given or given[name].dim() != 4 or name in layout.tied:
            raise DebrideError(f"'{path}': '{name}' cannot be in channels-last order")
        plain = given[name]
        given[name] = torch.empty_like(plain, memory_format=torch.channels_last).copy_(plain)
    state = {name: value for name, value in given.items() if not name.startswith(BUFFER)}
    model.load_state_dict(state, assign=True)
    for name, value in given.items():
        if name.startswith(BUFFER):
            _put(model, name, value)
    for alias, name in layout.tied.items():
        _put(model, alias, _get(model, name))


def stored_tensors(path: Path) -> int:
    """Count the tensors of a file.

    Raises
    ------
    DebrideError
        When the file is damaged.
    """
    with _opened(path) as file:
        return len(file.keys())


def on_meta(model: nn.Module) -> bool:
    """Tell whether any tensor of a network, registered or not, has no values."""
    if any(tensor.is_meta for _, tensor in _all_tensors(model)):
        return True
    return any(
        isinstance(value, Tensor) and value.is_meta
        for module in model.modules()
        for attribute in vars(module).values()
        for value in (attribute if isinstance(attribute, list | tuple) else [attribute])
    )


def _all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise DebrideError(
                f"the network keeps a {type(value).__name__} in its state ('{name}'): "
                "only tensors can be saved"
            )
        yield name, value.detach()
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name not in state:
            yield BUFFER + name, buffer.detach()


def _is_channels_last(tensor: Tensor) -> bool:
    if tensor.dim() != 4:
        return False
    # By strides: with one channel or one pixel a tensor counts as contiguous in both orders.
    usual, last = (
        torch.empty(tensor.shape, device="meta", memory_format=order).stride()
        for order in (torch.contiguous_format, torch.channels_last)
    )
    return tensor.stride() == last != usual


def _read(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        # Copies: the file may be changed later, and memory of our own is aligned.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise DebrideError(
            f"'{path}' is not a valid safetensors file ({first_line(error)}): "
            "copy the folder again from where it was made"
        ) from None


def _add_biases(model: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Give a bias to the layers without one that repair gave one before they were saved."""
    for name in given:
        path, _, leaf = name.rpartition(".")
        try:
            layer = model.get_submodule(path)
        except AttributeError:
            continue
        if leaf == "bias" and isinstance(layer, nn.Linear | _ConvNd) and layer.bias is None:
            outputs = getattr(layer, "out_features", None) or layer.out_channels
            layer.bias = nn.Parameter(layer.weight.new_empty(outputs))


def _compare(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    problem = ""
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            problem = f"the tensor '{name}' is missing"
        elif name not in expected:
            problem = f"there is a tensor '{name}' that the network does not have"
        elif given[name].shape != expected[name].shape:
            shapes = tuple(given[name].shape), tuple(expected[name].shape)
            problem = f"'{name}' has the shape {shapes[0]}, the network {shapes[1]}"
        elif given[name].dtype != expected[name].dtype:
            problem = f"'{name}' is {given[name].dtype}, in the network {expected[name].dtype}"
        if problem:
            raise DebrideError(
                f"'{path}' does not fit the network that it is for: {problem}; "
                "load it with the network and the library versions that it was written with"
            )


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.removeprefix(BUFFER).rpartition(".")
    return model.get_submodule(path), leaf


def _get(model: nn.Module, name: str) -> Tensor:
    module, leaf = _owner(model, name)
    value: Tensor = getattr(module, leaf)
    return value


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    module, leaf = _owner(model, name)
    table = module._parameters if leaf in module._parameters else module._buffers
    table[leaf] = value  # type: ignore[assignment]
