"""Criteria from the weights alone; they look at no image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from debride.criteria.registry import register_criterion
from debride.criteria.scores import Scores
from debride.errors import DebrideError
from debride.planning.layers import width
from debride.planning.plan import Group, Side, Tap


@register_criterion("magnitude")
def magnitude(model: nn.Module, groups: Sequence[Group], data: Iterable[Any]) -> Scores:
    """Score by the L2 norm of the weights that produce a unit (Li et al. 2017, with L2)."""
    return _of_taps("magnitude", groups, lambda tap: _weights(model, tap).norm(dim=1))


@register_criterion("magnitude_l1")
def magnitude_l1(model: nn.Module, groups: Sequence[Group], data: Iterable[Any]) -> Scores:
    """Score by the L1 norm of the weights that produce a unit (Li et al. 2017)."""
    return _of_taps("magnitude_l1", groups, lambda tap: _weights(model, tap).abs().sum(1))


@register_criterion("fpgm")
def fpgm(model: nn.Module, groups: Sequence[Group], data: Iterable[Any]) -> Scores:
    """Score by the summed distance of a unit's weights to its layer's others (He et al. 2019).

    The unit nearest to the geometric median is the one that the others replace best.
    """

    def distances(tap: Tap) -> Tensor:
        weights = _weights(model, tap)
        return torch.cdist(weights, weights).sum(1)

    return _of_taps("fpgm", groups, distances)


@register_criterion("bn_scale")
def bn_scale(model: nn.Module, groups: Sequence[Group], data: Iterable[Any]) -> Scores:
    """Score by |γ| of the batch norm behind a layer (Liu et al. 2017).

    A layer without one is scored by the L2 norm of its weights: layers are only compared by each
    unit's share of its own layer.

    Raises
    ------
    DebrideError
        Where no layer that can be cut has a batch norm behind it.
    """
    norms = {
        tap: module.weight.detach().to("cpu", torch.float64).abs()
        for group in groups
        for tap in group.taps
        if tap.side == "out"
        and isinstance(module := model.get_submodule(tap.read_at), _BatchNorm)
        and module.affine
    }
    if not norms:
        raise DebrideError(
            "the criterion 'bn_scale' reads the batch norm behind each layer, and no layer that "
            "can be cut here has one: take 'magnitude'"
        )

    def scale(tap: Tap) -> Tensor:
        return norms[tap] if tap in norms else _weights(model, tap).norm(dim=1)

    return _of_taps("bn_scale", groups, scale)


@register_criterion("random")
def random(
    model: nn.Module, groups: Sequence[Group], data: Iterable[Any], *, seed: int = 0
) -> Scores:
    """Score by seeded chance: what any criterion has to beat."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(tap: Tap) -> Tensor:
        units = width(model.get_submodule(tap.layer), tap.side)
        return torch.rand(units, generator=generator, dtype=torch.float64)

    return _of_taps("random", groups, drawn)


def _of_taps(name: str, groups: Sequence[Group], values: Callable[[Tap], Tensor]) -> Scores:
    """Ask for each producing layer's scores once, whatever images there are."""
    taps = {tap.layer: tap for group in groups for tap in group.taps}
    return Scores(name, 1, {layer: values(tap) for layer, tap in taps.items()})


def _weights(model: nn.Module, tap: Tap) -> Tensor:
    """Return a tapped layer's weights as (units, the rest), float64."""
    module = model.get_submodule(tap.layer)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return by_unit(module, weight.detach().to("cpu", torch.float64), tap.side)


def by_unit(module: nn.Module, values: Tensor, side: Side = "out") -> Tensor:
    """Return one value for each weight of a layer as (units on one side, the rest)."""
    if isinstance(module, _ConvTransposeNd) != (side == "in"):
        parts = int(getattr(module, "groups", 1))
        values = values.reshape(parts, -1, *values.shape[1:]).transpose(1, 2).flatten(0, 1)
    return values.flatten(1)
