"""Apply a plan: physically, or as masks that give the same output."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from debride.errors import DebrideError
from debride.planning.layers import is_depthwise, width
from debride.planning.plan import Plan, PlannedGroup, Side
from debride.surgery.layers import cutter_of, silence


def apply(model: nn.Module, plan: Plan, *, masks: bool = False) -> nn.Module:
    """Return a new network that keeps what the plan keeps; the given one is untouched.

    Parameters
    ----------
    model : nn.Module
        The network that the plan was made for, on any device, ``meta`` included.
    plan : Plan
    masks : bool
        Keep every tensor's size and instead silence the removed units in all layers that read
        them. The output equals that of the physically smaller network.

    Raises
    ------
    DebrideError
        When the plan does not fit the architecture.
    """
    plan.check(model)
    smaller = copy.deepcopy(model)
    if masks:
        mask(smaller, plan.groups)
    else:
        narrow(smaller, plan.groups)
    return smaller


def narrow(
    model: nn.Module, groups: Iterable[PlannedGroup], before: Iterable[PlannedGroup] = ()
) -> None:
    """Cut a network in place down to what `groups` keep.

    Parameters
    ----------
    model : nn.Module
        The original network, or one that was already cut down to `before`.
    groups : iterable of PlannedGroup
        Indices of the original network.
    before : iterable of PlannedGroup
        What earlier cuts kept.
    """
    gone = _removed_positions(before)
    for (name, side), removed in _removed_positions(groups).items():
        already = gone.get((name, side), set())
        if removed == already:
            continue
        if not already <= removed:
            raise DebrideError(f"units of '{name}' that are already cut cannot come back")
        module = _module(model, name)
        cutter = cutter_of(module)
        if cutter is None:
            raise DebrideError(f"'{name}' is a {type(module).__name__}, which cannot be cut")
        original = width(module, side) + len(already)
        if max(removed) >= original:
            raise DebrideError(
                f"the plan removes position {max(removed)} of '{name}', which has {original}"
            )
        kept = [
            local
            for local, position in enumerate(p for p in range(original) if p not in already)
            if position not in removed
        ]
        if not kept:
            raise DebrideError(f"the plan would leave nothing of '{name}'")
        cutter(module, side, torch.tensor(kept, dtype=torch.long))


def mask(model: nn.Module, groups: Iterable[PlannedGroup]) -> None:
    """Silence in place, in every layer that reads them, the units that `groups` do not keep."""
    for (name, side), removed in _removed_positions(groups).items():
        module = _module(model, name)
        if side == "in" and removed and not is_depthwise(module):
            silence(module, torch.tensor(sorted(removed), dtype=torch.long))


def _removed_positions(groups: Iterable[PlannedGroup]) -> dict[tuple[str, Side], set[int]]:
    removed: dict[tuple[str, Side], set[int]] = {}
    for group in groups:
        for member in group.members:
            removed.setdefault((member.module, member.side), set()).update(
                member.positions(group.removed)
            )
    return removed


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise DebrideError(f"the plan names a module '{name}' that is not there") from error
