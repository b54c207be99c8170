"""Apply a plan: physically, or as masks that give the same output."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.attention import Heads, heads_of, is_attention, open_up
from debride.planning.layers import axis_of, width
from debride.planning.plan import Plan, PlannedGroup, removed_positions
from debride.surgery.layers import cutter_of, select
from debride.surgery.masks import mask, named


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
    cuts: dict[str, list[Callable[[], None]]] = {}
    for (name, side), removed in removed_positions(groups).items():
        already = gone.get((name, side), set())
        if removed == already:
            continue
        if not already <= removed:
            raise DebrideError(f"units of '{name}' that are already cut cannot come back")
        part = named(model, name)
        original = width(part, side) + len(already)
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
        index = torch.tensor(kept, dtype=torch.long)
        cut: Callable[[], None]
        if isinstance(part, Tensor):
            owner, _, leaf = name.rpartition(".")
            cut = functools.partial(select, model.get_submodule(owner), leaf, axis_of(side), index)
        elif (cutter := cutter_of(part, side)) is not None:
            cut = functools.partial(cutter, part, side, index)
        else:
            raise DebrideError(f"'{name}' is a {type(part).__name__}, which cannot be cut")
        cuts.setdefault(name, []).append(cut)
    # All is known to fit before anything is cut. Attention is opened up first, which fixes the
    # scale of its heads, while its projections are whole.
    for name in cuts:
        _open_around(model, name)
    for each in cuts.values():
        for cut in each:
            cut()


def _open_around(model: nn.Module, name: str) -> None:
    """Open the attention that a layer stands in: closed, it runs with the widths it began with."""
    while name:
        module = named(model, name)
        if not isinstance(module, Tensor) and is_attention(module):
            if isinstance(heads_of(module), Heads):
                open_up(module)
            return
        name = name.rpartition(".")[0]
