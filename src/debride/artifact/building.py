"""Rebuild the network that ``model.json`` describes: build, cut down, fill with its tensors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debride.artifact.limits import BuildingLimits, check_options
from debride.artifact.manifest import PLAN, WEIGHTS, Manifest
from debride.artifact.reading import read_json, read_text
from debride.artifact.tensors import Layout, on_meta, read_tensors
from debride.errors import DebrideError
from debride.models.outputs import task_of
from debride.models.spec import CUSTOM, build
from debride.planning.plan import Plan
from debride.surgery.removal import apply


def network_of(
    folder: Path, manifest: Manifest, model: nn.Module | None, trust: bool
) -> tuple[nn.Module, Plan | None]:
    """Build the network, cut it down and give it its tensors."""
    plan = None
    if PLAN in manifest.sha256:
        read_json(folder / PLAN)
        plan = Plan.from_json(read_text(folder / PLAN))
    layout = Layout(manifest.tied, manifest.channels_last)
    for place in ("meta", "cpu"):
        network = _skeleton(folder, manifest, model, trust, place)
        if plan is not None:
            network = apply(network, plan)
        read_tensors(network, folder / WEIGHTS, layout)
        # Tensors that a constructor computes and registers nowhere need a real construction.
        if not on_meta(network):
            break
    return network, plan


def _skeleton(
    folder: Path, manifest: Manifest, model: nn.Module | None, trust: bool, device: str
) -> nn.Module:
    """Build the unpruned network, with or without values."""
    if model is not None:
        network = _shadow(model) if device == "meta" else copy.deepcopy(model)
    elif manifest.spec is None or manifest.spec.source == CUSTOM:
        raise DebrideError(
            f"'{folder}' holds a network of your own class {manifest.network}: hand over the "
            "unpruned network, as in debride.load(folder, model=...)"
        )
    else:
        check_options(manifest.spec.options)
        with BuildingLimits(folder / WEIGHTS):
            network = build(manifest.spec, device=device, trust=trust)
    if float_type(network) != manifest.dtype:
        network = network.to(getattr(torch, manifest.dtype))
    return network


def _shadow(model: nn.Module) -> nn.Module:
    """Copy a network without the values of its parameters and buffers."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else empty
        )
    return copy.deepcopy(model, memo)


def float_type(model: nn.Module) -> Any:
    """Name the type of a network's first tensor of floats, such as ``float32``."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    kinds = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    return str(kinds[0] if kinds else torch.float32).removeprefix("torch.")


def check_task(folder: Path, manifest: Manifest) -> None:
    """Refuse a task that the network's outputs and the classes do not make."""
    if manifest.spec is None or manifest.task is None:
        return
    outputs, classes = manifest.spec.outputs, len(manifest.classes)
    try:
        fits = task_of(outputs, classes, manifest.task == "multilabel") == manifest.task
    except DebrideError:
        fits = False
    if not fits:
        raise DebrideError(
            f"'{folder / 'model.json'}' is damaged: {outputs} outputs for {classes} classes do not "
            f"make a {manifest.task} network"
        )
