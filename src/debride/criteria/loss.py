"""Criteria from the loss: what an image's cross-entropy would lose with a unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from debride.criteria.registry import register_criterion
from debride.criteria.scores import Scores
from debride.criteria.units import Aggregate, Count, Visit, sum_over_images
from debride.criteria.weights import by_unit
from debride.errors import DebrideError
from debride.models.outputs import logits
from debride.planning.plan import Group
from debride.relevance.methods import trace
from debride.relevance.targets import decide
from debride.relevance.tracing import prepared


@register_criterion("taylor")
def taylor(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    aggregate: Aggregate = "square",
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by (Σ gradient · activation)² of each image's cross-entropy (Molchanov et al. 2019).

    ``aggregate="abs"`` takes the size instead of the square (Molchanov et al. 2017). Without
    labels the predicted class stands for the true one.
    """

    def sweep(
        images: Tensor, labels: Tensor | None, taps: tuple[str, ...], visit: Visit
    ) -> Mapping[str, list[str]]:
        trace(
            model, images, lambda output: cross_entropy(output, labels, len(images)),
            method="gradient", taps=taps, visit=lambda tap, a, gradient: visit(tap, a * gradient),
        )  # fmt: skip
        return {}

    name = f"taylor:{aggregate}"
    return sum_over_images(name, model, groups, data, sweep, aggregate=aggregate, device=device)


@register_criterion("hessian")
def hessian(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    probes: Count = 4,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by ½ Σ w² ∂²L/∂w² over the weights that make a unit (LeCun et al. 1990).

    The diagonal of the Hessian is Hutchinson's estimate, the mean of v ⊙ Hv over random signs v
    (Bekas et al. 2007). The signs are drawn anew from `seed` for every batch, so that the sums of
    shards add up; an estimate may be negative. Without labels the predicted class is taken.
    """
    if probes < 1:
        raise DebrideError(f"probes={probes}: give 1 or more")
    layers = {tap.read_at: tap for group in groups for tap in group.taps}
    weights = [model.get_parameter(f"{tap.layer}.weight") for tap in layers.values()]

    def sweep(
        images: Tensor, labels: Tensor | None, taps: tuple[str, ...], visit: Visit
    ) -> Mapping[str, list[str]]:
        # fused attention has no second derivative
        with prepared(model), sdpa_kernel(SDPBackend.MATH):
            model.requires_grad_(False)
            for weight in weights:
                weight.requires_grad_(True)
            loss = cross_entropy(model(images.clone()), labels, len(images)).sum()
            slopes = torch.autograd.grad(
                loss, weights, create_graph=True, allow_unused=True, materialize_grads=True
            )
            generator = torch.Generator().manual_seed(seed)
            for _ in range(probes):
                signs = [_signs(weight, generator) for weight in weights]
                bent = torch.autograd.grad(
                    slopes, weights, signs, retain_graph=True, allow_unused=True,
                    materialize_grads=True,
                )  # fmt: skip
                for tap, weight, v, hv in zip(layers, weights, signs, bent, strict=True):
                    diagonal = (v * hv).double() * weight.detach().double().square()
                    module, side = model.get_submodule(layers[tap].layer), layers[tap].side
                    visit(tap, by_unit(module, diagonal, side).sum(1)[None] / (2 * probes))
        return {}

    return sum_over_images("hessian", model, groups, data, sweep, aggregate="signed", device=device)


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(weight)


def cross_entropy(output: Any, labels: Tensor | None, count: int) -> Tensor:
    """Return each image's cross-entropy (B,): softmax, or sigmoids of one logit or many labels.

    Examples
    --------
    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), 1)
    tensor([0.6931])
    """
    scores = logits(output)
    if labels is not None and labels.ndim > 1:
        if labels.shape != scores.shape:
            raise DebrideError(
                f"the labels have shape {tuple(labels.shape)} and the network's outputs "
                f"{tuple(scores.shape)}: give one column for each output"
            )
        return F.binary_cross_entropy_with_logits(scores, labels.to(scores), reduction="none").sum(
            1
        )
    classes = decide(scores, labels, count).held
    assert isinstance(classes, Tensor)
    if scores.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(
            scores[:, 0], classes.to(scores), reduction="none"
        )
    return F.cross_entropy(scores, classes, reduction="none")
