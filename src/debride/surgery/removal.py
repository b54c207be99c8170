"""Apply a plan: physically, or as masks that give the same output."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.attention import is_attention
from debride.planning.layers import width
from debride.planning.plan import Plan, PlannedGroup, Side, removed_positions
from debride.surgery.layers import Cutter, cutter_of
from debride.surgery.masks import mask, submodule


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
    gone = removed_positions(before)
    cuts: list[tuple[Cutter, nn.Module, Side, Tensor]] = []
    for (name, side), removed in removed_positions(groups).items():
        already = gone.get((name, side), set())
        if removed == already:
            continue
        if not already <= removed:
            raise DebrideError(f"units of '{name}' that are already cut cannot come back")
        module = submodule(model, name)
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
        cuts.append((cutter, module, side, torch.tensor(kept, dtype=torch.long)))
    # All is known to fit before anything is cut. Attention goes first: it is opened up, which
    # fixes the scale of its heads, while its projections are whole.
    for cutter, module, side, index in sorted(cuts, key=lambda cut: not is_attention(cut[1])):
        cutter(module, side, index)
