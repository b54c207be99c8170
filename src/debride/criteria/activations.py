"""Criteria from activations alone: how much, and how often, a unit speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from debride.criteria.registry import register_criterion
from debride.criteria.scores import Scores
from debride.criteria.units import Visit, sum_over_images
from debride.planning.plan import Group
from debride.relevance.tracing import hearing


@register_criterion("activation")
def activation(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by the mean of what a ReLU lets through of a unit (Molchanov et al. 2017).

    Read where relevance is: behind the batch norm, before the activation function.
    """
    return _heard("activation", model, groups, data, torch.relu, device)


@register_criterion("apoz")
def apoz(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by 1 − APoZ, the share of places that a ReLU lets through (Hu et al. 2016)."""
    return _heard("apoz", model, groups, data, lambda value: (value > 0).to(value), device)


def _heard(
    name: str,
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    read: Callable[[Tensor], Tensor],
    device: str | torch.device,
) -> Scores:
    def sweep(
        images: Tensor, labels: Tensor | None, taps: tuple[str, ...], visit: Visit
    ) -> Mapping[str, list[str]]:
        with torch.no_grad(), hearing(model, taps, lambda tap, value: visit(tap, read(value))):
            model(images)
        return {}

    return sum_over_images(
        name, model, groups, data, sweep, aggregate="signed", mean=True, device=device
    )
