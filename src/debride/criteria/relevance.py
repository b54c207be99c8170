"""Criteria from explanation methods: how much relevance a unit carries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from debride.criteria.registry import register_criterion
from debride.criteria.scores import Scores
from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.models.outputs import logits
from debride.planning.layers import width
from debride.planning.plan import Group
from debride.relevance.methods import Target, trace


@register_criterion("lrp")
def lrp(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    rules: str = "epsilon",
    device: str | torch.device = "cpu",
    **_: Any,
) -> Scores:
    """Score by Layer-wise Relevance Propagation for the true class, or the predicted one.

    A channel's relevance is summed over space for each image, then its size is summed over
    images; a neuron's size is taken for each image and token, and so is that of what a head gives.
    """
    layers = {tap.read_at: tap for group in groups for tap in group.taps}
    modules = dict(model.named_modules())
    neurons = {
        name
        for name, tap in layers.items()
        if tap.side == "in" or isinstance(modules[name], nn.Linear)
    }
    sums: dict[str, Tensor] = {}
    unknown: dict[str, list[str]] = {}
    count = 0

    def visit(name: str, activation: Tensor, c: Tensor) -> None:
        relevance = activation * c
        if name in neurons:
            per_unit = relevance.abs().flatten(0, -2).sum(0, dtype=torch.float64)
        else:
            per_unit = (
                relevance.reshape(*relevance.shape[:2], -1).sum(2).abs().sum(0, dtype=torch.float64)
            )
        layer = layers[name].layer
        sums[layer] = sums[layer] + per_unit if layer in sums else per_unit

    for batch in data:
        images, labels = unpack(batch)
        images = images.to(device)
        found = trace(model, images, _target(labels), rules=rules, taps=tuple(layers), visit=visit)
        count += images.shape[0]
        unknown.update(found.unknown)
    if count == 0:
        raise DebrideError("the reference data are empty: give at least one image")
    for tap in layers.values():
        units = width(modules[tap.layer], tap.side)
        sums.setdefault(tap.layer, torch.zeros(units, dtype=torch.float64))
    return Scores(f"lrp:{rules}", count, {n: v.cpu() for n, v in sums.items()}, unknown)


def _target(labels: Tensor | None) -> Target:
    if labels is None:
        return None
    if labels.ndim == 1:
        return labels
    present = labels

    def chosen(output: Any) -> Tensor:
        """Sum the logits of the labels an image has, or take its highest where it has none."""
        scores = logits(output)
        given = present.to(scores)
        none = given.sum(1) == 0
        return torch.where(none, scores.amax(1), (scores * given).sum(1))

    return chosen
