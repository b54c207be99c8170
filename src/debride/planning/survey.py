"""What a network has that can be cut: every group, and what goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from debride.planning.budgets import cost_model
from debride.planning.costs import Costs, measure
from debride.planning.coupling import LeftAlone
from debride.planning.groups import find_groups
from debride.planning.plan import Group


@dataclass(frozen=True)
class Surveyed:
    """A group, and what would go with all of its units.

    Attributes
    ----------
    group : Group
    layers : tuple of str
        Modules that get smaller with it.
    macs, params : int
        Groups that meet in a layer each count it: these do not add up.
    """

    group: Group
    layers: tuple[str, ...]
    macs: int
    params: int


@dataclass(frozen=True)
class Survey:
    """All groups of a network, and what is left alone.

    Attributes
    ----------
    groups : tuple of Surveyed
        In the order of the network.
    left_alone : tuple of LeftAlone
    costs : Costs
        Of the network as it is, for one image.
    macs, params : int
        What would go if all units of all groups went.
    """

    groups: tuple[Surveyed, ...]
    left_alone: tuple[LeftAlone, ...]
    costs: Costs
    macs: int
    params: int

    @property
    def units(self) -> int:
        """How many units there are in all groups."""
        return sum(entry.group.units for entry in self.groups)


def survey(model: nn.Module, example: Tensor, *, residual_width: bool = False) -> Survey:
    """Find what can be cut in a network, and what each part costs.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor
        (B, C, *spatial); the first image is used.
    residual_width : bool
        See `debride.planning.groups.find_groups`.

    Raises
    ------
    DebrideError
        When the network cannot be traced, or has nothing to cut.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> found = survey(net, torch.zeros(1, 1, 8, 8))
    >>> found.groups[0].layers, found.groups[0].params, found.params
    (('0', '2'), 368, 368)
    """
    grouping = find_groups(model, example, residual_width=residual_width)
    groups = grouping.groups
    macs, params = (cost_model(kind, model, groups, example[:1]) for kind in ("macs", "params"))
    units = np.array([group.units for group in groups], dtype=np.float64)
    none = np.zeros_like(units)
    entries = []
    for index, group in enumerate(groups):
        gone = none.copy()
        gone[index] = group.units
        entries.append(
            Surveyed(
                group,
                tuple(dict.fromkeys(member.module for member in group.members)),
                round(macs(none) - macs(gone)),
                round(params(none) - params(gone)),
            )
        )
    return Survey(
        tuple(entries),
        grouping.left_alone,
        measure(model, example),
        round(macs(none) - macs(units)),
        round(params(none) - params(units)),
    )
