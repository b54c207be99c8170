"""A cut on trial: a group is only cut where removing its units is the same as silencing them."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from debride.models.outputs import logits
from debride.planning.plan import Group, PlannedGroup
from debride.surgery.masks import mask
from debride.surgery.removal import narrow


def sound(model: nn.Module, groups: Sequence[Group], example: Tensor) -> tuple[Group, ...]:
    """Return the groups that can be removed without another effect than silencing them.

    What a tracer cannot see (channels mixed by a function, a shape written into the code, one
    weight in two layers) shows when half of every group is removed. Where it does, the groups
    are split until the guilty ones are found.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode; left as it is.
    groups : sequence of Group
    example : Tensor
        (1, C, *spatial).
    """
    if not groups or _same(model, [_halved(group) for group in groups], example):
        return tuple(groups)
    if len(groups) == 1:
        return ()
    middle = len(groups) // 2
    good = sound(model, groups[:middle], example)
    for group in (rest := sound(model, groups[middle:], example)):
        if not _same(model, [_halved(g) for g in (*good, *rest)], example):
            rest = tuple(g for g in rest if g is not group)
    return (*good, *rest)


def _halved(group: Group) -> PlannedGroup:
    # Another half in every group: two layers with one weight must not lose the same units.
    generator = torch.Generator().manual_seed(zlib.crc32(group.name.encode()))
    order = torch.randperm(group.units, generator=generator)
    return group.planned(order[: (group.units + 1) // 2].tolist())


def _same(model: nn.Module, cut: Sequence[PlannedGroup], example: Tensor) -> bool:
    # Double precision tells rounding from a mistake; not every network runs in it.
    for dtype, tolerance in ((torch.float64, 1e-8), (example.dtype, 1e-3)):
        try:
            masked = _stirred(model, dtype)
            mask(masked, cut)
            expected = _output(masked, example.to(dtype))
        except Exception:  # whatever a stranger's network meets
            continue
        del masked
        removed = _stirred(model, dtype)
        try:
            narrow(removed, cut)
            found = _output(removed, example.to(dtype))
        except Exception:  # it does not run without these units
            return False
        if found.shape != expected.shape or not found.isfinite().all():
            return False
        return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
    return False


def _stirred(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy in which no path is closed by weights that start at zero."""
    copied = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        for parameter in copied.parameters():
            if not parameter.any():
                parameter.fill_(0.1)
    return copied


def _output(model: nn.Module, example: Tensor) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return explained_part(model(example))


def explained_part(output: Any) -> Tensor:
    """Return the tensor of a network's output that its decision stands in."""
    return output if isinstance(output, Tensor) else logits(output)
