"""Criteria from explanation methods: how much relevance a unit carries.

What is explained is an image's true class, the sum of its classes where it has several, or the
predicted class where it has no label; `lrp` sets it against all others. By default a channel
counts with the size of its summed relevance in an image, a neuron with that at each token; in
`lrp` with its square.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from debride.criteria.registry import register_criterion
from debride.criteria.scores import Scores
from debride.criteria.units import Aggregate, Count, Visit, sum_over_images
from debride.errors import DebrideError
from debride.models.outputs import logits
from debride.planning.plan import Group
from debride.relevance.backtrace import trace_contrastive
from debride.relevance.methods import Target, attribute, trace
from debride.relevance.targets import decide

Explained = Literal["class", "odds"]


@register_criterion("lrp")
def lrp(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    rules: str = "epsilon",
    target: Explained = "odds",
    aggregate: Aggregate = "square",
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by Layer-wise Relevance Propagation (Bach et al. 2015), with any rule set.

    What is explained is the class against all others, log p / (1 − p); with ``target="class"``, of
    several labels and of a single logit it is the logit itself.
    """
    name = f"lrp:{rules}" + (":odds" if target == "odds" else "")
    return _traced(name, model, groups, data, rules, aggregate, device, target)


@register_criterion("dlb")
def dlb(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    aggregate: Aggregate = "abs",
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by DL-Backtrace in its default mode (arXiv 2411.12643)."""
    return _traced("dlb", model, groups, data, "dlb", aggregate, device)


@register_criterion("dlb_contrastive")
def dlb_contrastive(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    aggregate: Aggregate = "abs",
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by DL-Backtrace's contrastive mode: relevance for the class minus that against it."""

    def sweep(
        images: Tensor, labels: Tensor | None, taps: tuple[str, ...], visit: Visit
    ) -> Mapping[str, list[str]]:
        if labels is not None and labels.ndim > 1:
            raise DebrideError(
                "the criterion 'dlb_contrastive' sets one class against the others, and an image "
                "here may have several labels: take 'dlb' or 'lrp'"
            )
        return trace_contrastive(
            model, images, labels, taps=taps, visit=lambda tap, a, c: visit(tap, a * c)
        ).unknown

    name = f"dlb_contrastive:{aggregate}"
    return sum_over_images(name, model, groups, data, sweep, aggregate=aggregate, device=device)


@register_criterion("ig")
def ig(
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    n_steps: Count = 8,
    aggregate: Aggregate = "abs",
    device: str | torch.device = "cpu",
) -> Scores:
    """Score by conductance (Dhamdhere et al. 2018, eq. 3): every layer's from one sweep.

    The sweep is `n_steps` + 1 forward and backward passes from the zero image to the image.
    """

    def sweep(
        images: Tensor, labels: Tensor | None, taps: tuple[str, ...], visit: Visit
    ) -> Mapping[str, list[str]]:
        found = attribute(model, images, target_of(labels), method="ig", taps=taps, n_steps=n_steps)
        for tap, conductance in found.taps.items():
            visit(tap, conductance)
        return found.unknown

    name = f"ig:{n_steps}:{aggregate}"
    return sum_over_images(name, model, groups, data, sweep, aggregate=aggregate, device=device)


def _traced(
    name: str,
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    rules: str,
    aggregate: str,
    device: str | torch.device,
    target: Explained = "class",
) -> Scores:
    def sweep(
        images: Tensor, labels: Tensor | None, taps: tuple[str, ...], visit: Visit
    ) -> Mapping[str, list[str]]:
        explained = target_of(labels) if target == "class" else odds_of(labels, len(images))
        return trace(
            model, images, explained, rules=rules, taps=taps,
            visit=lambda tap, a, c: visit(tap, a * c),
        ).unknown  # fmt: skip

    name = f"{name}:{aggregate}"
    return sum_over_images(name, model, groups, data, sweep, aggregate=aggregate, device=device)


def odds_of(labels: Tensor | None, count: int) -> Target:
    """Return the log-odds of each image's class; what has a logit of its own is explained by it."""
    if labels is not None and labels.ndim > 1:
        return target_of(labels)

    def odds(output: Any) -> Tensor:
        scores = logits(output)
        classes = decide(scores, labels, count).held
        assert isinstance(classes, Tensor)
        if scores.shape[1] == 1:
            return scores[:, 0] * (2 * classes.to(scores) - 1)
        own = nn.functional.one_hot(classes, scores.shape[1]).bool()
        return scores[own] - scores.masked_fill(own, -torch.inf).logsumexp(1)

    return odds


def target_of(labels: Tensor | None) -> Target:
    """Return what explains these labels: classes, or the summed logits of all that an image has."""
    if labels is None or labels.ndim == 1:
        return labels
    present = labels

    def chosen(output: Any) -> Tensor:
        """Sum the logits of the labels an image has, or take its highest where it has none."""
        scores = logits(output)
        given = present.to(scores)
        none = given.sum(1) == 0
        return torch.where(none, scores.amax(1), (scores * given).sum(1))

    return chosen
