"""Criteria to compare with: the size of a unit's weights, and chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from debride.criteria.registry import register_criterion
from debride.criteria.scores import Scores
from debride.planning.plan import Group


def _weights(model: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Return each tapped layer's weights as (units, the rest)."""
    found = {}
    for layer, side in {tap.layer: tap.side for group in groups for tap in group.taps}.items():
        module = model.get_submodule(layer)
        weight = module.weight
        assert isinstance(weight, Tensor)
        weight = weight.detach().to("cpu", torch.float64)
        if isinstance(module, _ConvTransposeNd) != (side == "in"):
            weight = weight.transpose(0, 1)
        found[layer] = weight.flatten(1)
    return found


@register_criterion("magnitude")
def magnitude(model: nn.Module, groups: Sequence[Group], data: Iterable[Any], **_: Any) -> Scores:
    """Score by the L2 norm of the weights that produce a unit (Li et al. 2017, with L2)."""
    values = {name: weight.norm(dim=1) for name, weight in _weights(model, groups).items()}
    return Scores("magnitude", 1, values)


@register_criterion("random")
def random(
    model: nn.Module, groups: Sequence[Group], data: Iterable[Any], *, seed: int = 0, **_: Any
) -> Scores:
    """Score by seeded chance: what any criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: torch.rand(len(weight), generator=generator, dtype=torch.float64)
        for name, weight in _weights(model, groups).items()
    }
    return Scores("random", 1, values)
