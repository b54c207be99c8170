"""DL-Backtrace as methods: its default mode, and the contrastive one with two coupled maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.outputs import first_tensor, logits
from debride.relevance.gradients import one_pass
from debride.relevance.memory import plan_batches
from debride.relevance.methods import Request, register_method
from debride.relevance.result import Relevance, joined
from debride.relevance.rules import RuleSet, rule_set
from debride.relevance.targets import Region, Target, decide, part_of, part_of_output
from debride.relevance.tracing import Sums, Visit, new_pass, trace

Map = Literal["difference", "plus", "minus"]


def _rules(
    name: str, *, collapse: bool = False, norm: Literal["fold", "pass"] = "fold", **options: Any
) -> RuleSet:
    if norm not in ("fold", "pass"):
        raise DebrideError(f"norm='{norm}': give 'fold' or 'pass'")
    if collapse:
        options["attention"] = "collapse"
    if norm == "pass":
        options |= {"norms": "identity", "batch_norm": "identity"}
    return rule_set(name, **options)


def _dlb_rules(_: Any, *, memory: float | None = None, **options: Any) -> RuleSet:
    return _rules("dlb", **options)


@register_method("dlb", title="DL-Backtrace", rules=_dlb_rules)
def dlb(
    request: Request,
    *,
    later: bool = False,
    bounds: bool | Mapping[str, tuple[float, float]] = False,
    collapse: bool = False,
    norm: Literal["fold", "pass"] = "fold",
    memory: float | None = None,
) -> Relevance:
    """Run DL-Backtrace in its default mode (arXiv 2411.12643): shares by size of contribution.

    Parameters
    ----------
    later : bool
        The linear rule of packages after 0.1.0.
    bounds : bool or mapping
        Drop one side of contributions where an activation saturates; see
        `debride.relevance.rules.backtrace.ACTIVATION_BOUNDS`.
    collapse : bool
        Q, K and V of attention share their totals by size, as in later packages.
    norm : ``"fold"`` or ``"pass"``
        ``"pass"`` lets R pass every norm, as the packages do.
    memory : float, optional
        Limit in GiB; the batch is split only where one is given.
    """
    rules = _rules("dlb", collapse=collapse, norm=norm, later=later, bounds=bounds)
    return one_pass(request, rules, memory)


@register_method("dlb_contrastive", title="DL-Backtrace, contrastive")
def contrastive(
    request: Request,
    *,
    map: Map = "difference",
    collapse: bool = False,
    norm: Literal["fold", "pass"] = "fold",
    memory: float | None = None,
) -> Relevance:
    """Run DL-Backtrace in its contrastive mode: a map for the target, one against it.

    The maps lose relevance where they compete; `Relevance.shares` are those of both together.

    Parameters
    ----------
    map : ``"difference"``, ``"plus"`` or ``"minus"``
        R⁺ − R⁻ or either map, in `input` and `taps`.
    collapse, norm, memory
        As for ``"dlb"``.
    """
    if map not in get_args(Map):
        raise DebrideError(f"map='{map}': give one of {', '.join(get_args(Map))}")
    rules = _rules("dlb_contrastive", collapse=collapse, norm=norm)
    parts = []
    for which in _slices(request, memory):
        sums = Sums()
        found = trace_contrastive(
            request.model, request.images[which],
            part_of(request.target, which, request.images.ndim - 2), rules=rules,
            taps=request.taps, visit=sums.relevance, strict=request.strict, map=map,
        )  # fmt: skip
        parts.append(Relevance(**{**vars(found), "taps": sums.found}))
    return joined(parts)


def trace_contrastive(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    rules: str | RuleSet = "dlb_contrastive",
    taps: Sequence[str] = (),
    visit: Visit = lambda *_: None,
    strict: bool = False,
    map: Map = "difference",
) -> Relevance:
    """Run both maps in one pass, the images stacked with themselves; as `debride.relevance.trace`.

    R⁺ starts as the target's logit and R⁻ as every other one; of a single output m, R⁻ = 1 − m
    where m < 1.
    """
    if callable(target):
        raise DebrideError(
            "the contrastive mode sets a class against the others: give a label or a Region as "
            "the target, not a function"
        )
    count = len(images)

    def start(output: Any) -> Tensor:
        half = part_of_output(output, slice(0, count), 2 * count)
        goal = decide(half, target, count)
        plus = goal(half)
        rest = goal(part_of_output(output, slice(count, None), 2 * count))
        return torch.cat([plus, _others(output, target, rest, count)])

    def one(value: Tensor) -> Tensor:
        plus, minus = value[:count], value[count:]
        return {"plus": plus, "minus": minus}.get(map, plus - minus)

    def meet(name: str, activation: Tensor, c: Tensor) -> None:
        half = activation.shape[0] // 2
        plus, minus = c[:half], c[half:]
        c = {"plus": plus, "minus": minus}.get(map, plus - minus)
        visit(name, activation[:half], c)

    found = trace(
        model, torch.cat([images, images]), start, rules=rules, taps=taps, visit=meet, strict=strict
    )
    changed = {"input": one(found.input), "output": found.output[:count]}
    return Relevance(**{**vars(found), **changed})


def _others(output: Any, target: Target, own: Tensor, count: int) -> Tensor:
    """Return what R⁻ starts from: all other logits, or 1 − m."""
    scores = first_tensor(output) if isinstance(target, Region) else logits(output)
    assert scores is not None
    scores = scores[count:]
    if scores.shape[1] == 1:
        m = own.detach()
        part = torch.where((m < 1) & (m != 0), (1 - m) / torch.where(m == 0, 1, m), 0)
        return own * part
    if isinstance(target, Region):
        mask = target.mask
        if mask is None:
            mask = scores.detach().argmax(1) == target.label
        return (scores.sum(1) * mask.to(scores)).flatten(1).sum(1) - own
    return scores.flatten(1).sum(1) - own


def _slices(request: Request, memory: float | None) -> list[slice]:
    if memory is None:
        return [slice(None)]
    plan = plan_batches(
        request.model, request.images, memory=memory / 2, taps=request.taps,
        whole=callable(request.target), through=new_pass(request.model, "dlb"),
    )  # fmt: skip
    return list(plan.slices())
