"""The loop that cuts a network down: score, plan, cut, repair, measure, and again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from debride.criteria import check_criterion, score
from debride.data.batches import check_repeatable, unpack
from debride.errors import DebrideError
from debride.evidence import Evidence, evaluate
from debride.models.outputs import Task
from debride.planning.budgets import cost_model
from debride.planning.groups import find_groups
from debride.planning.make import (
    TOLERANCE,
    check_ranking,
    check_reachable,
    cut_to_budget,
    finish,
    read_budget,
)
from debride.planning.plan import Plan, PlannedGroup
from debride.recovery import begin, check_recovery, tries
from debride.relevance.rules import rule_set
from debride.surgery.removal import narrow
from debride.validation import Validation


@dataclass(frozen=True)
class StepRecord:
    """One step of pruning; step 0 is the original.

    Attributes
    ----------
    macs_kept, params_kept, units_kept : float
        Fractions of the original.
    before_recovery, after_recovery : float
        The validation metric: balanced accuracy, or macro ROC AUC if multi-label.
    normalise : str or None
        How scores were made comparable across layers in this step.
    """

    step: int
    macs_kept: float
    params_kept: float
    units_kept: float
    before_recovery: float
    after_recovery: float
    normalise: str | None = None


@dataclass(frozen=True)
class _Candidate:
    """One way to make a step, and how far it moved the network's outputs."""

    distance: float
    model: nn.Module
    groups: tuple[PlannedGroup, ...]
    normalise: str | None
    before: float
    after: float


def _distance(candidate: _Candidate) -> float:
    return candidate.distance


CANDIDATES: dict[str, tuple[str | None, ...]] = {
    "global": ("share_width", "share_width_rank"),
    "layer": (None,),
}
"""Normalisations that a step tries; the one that moves the outputs least is kept."""


@dataclass(frozen=True)
class Pruned:
    """A smaller network and how it came about.

    Attributes
    ----------
    model : nn.Module
    plan : Plan
    evidence : Evidence or None
        On the validation images, against the original.
    history : tuple of StepRecord
    settings : mapping
        The choices that made it.
    """

    model: nn.Module
    plan: Plan
    evidence: Evidence | None
    history: tuple[StepRecord, ...]
    settings: dict[str, Any]

    def save(self, folder: str | Path) -> None:
        """Write the network, its plan and its evidence to a folder that `debride.load` reads."""
        from debride.artifact.bundle import save

        save(self, folder)


def prune(
    model: nn.Module,
    reference: Iterable[Any],
    validation: Iterable[Any],
    *,
    criterion: str = "lrp",
    rules: str = "epsilon",
    macs: float | None = None,
    params: float | None = None,
    ratio: float | None = None,
    steps: int = 8,
    ranking: str = "global",
    normalise: str | None = None,
    floor: float = 0.05,
    recovery: str | None = "batchnorm",
    recovery_data: Iterable[Any] | None = None,
    task: Task | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    evidence: bool = True,
    on_step: Callable[[StepRecord], None] = lambda _: None,
) -> Pruned:
    """Cut a network down to a budget, in steps, scoring what is left before each.

    Parameters
    ----------
    model : nn.Module
        Untouched.
    reference : iterable
        Re-iterable batches that the relevance is taken on: (images, labels), or dicts with
        "image" and "label". Twenty images a class do.
    validation : iterable
        Re-iterable batches with labels, for the metric after each step.
    criterion : str
        A registered criterion such as ``"lrp"``, ``"ig"`` or ``"magnitude"``.
    rules : str
        LRP's rule set.
    macs, params : float, optional
        Fraction of the multiply-accumulates or parameters to keep; half of the MACs by default.
    ratio : float, optional
        Fraction of the units to remove.
    steps : int
        Cuts on the way to the budget, each of the same part of what is left.
    ranking : str
        ``"global"`` or ``"layer"``.
    normalise : str, optional
        See `debride.planning.ranking`. By default each step of a global ranking tries
        ``"share_width"`` and ``"share_width_rank"`` and keeps the one whose outputs on the
        validation images are nearer to the original's; their labels have no part in it.
    floor : float
        Fraction of its units that every group keeps at least.
    recovery : str or None
        What is done after each step: ``"batchnorm"`` recalibrates, ``"mean"`` also corrects
        biases, ``"least_squares"`` also gives readers the weights that best repeat their output.
    recovery_data : iterable, optional
        Re-iterable training images for that, without need of labels; `reference` by default.
    task : str, optional
        ``"multiclass"``, ``"binary"`` or ``"multilabel"``; read off the outputs by default.
    seed : int
        For criteria that draw, and the choice of images in the evidence.
    device : str or torch.device, optional
        Where the work is done; the network's own by default.
    evidence : bool
        Whether to measure the result beside the original on `validation`.
    on_step : callable
        Called with each `StepRecord` as soon as it is known.

    Raises
    ------
    DebrideError
        When nothing can be cut, or the budget cannot be met within 0.01 of the original total.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten(),
    ...                     nn.Linear(64, 2))
    >>> data = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]
    >>> small = prune(net, data, data, macs=0.5, steps=2, evidence=False)
    >>> small.plan.macs_kept < 0.51
    True
    """
    check_repeatable(reference=reference, validation=validation, recovery_data=recovery_data)
    kind, kept = read_budget(macs=macs, params=params, ratio=ratio)
    check_criterion(criterion)
    check_recovery(recovery)
    check_ranking(ranking, normalise)
    rule_set(rules)
    if steps < 1:
        raise DebrideError(f"steps={steps}: give 1 or more")
    place = torch.device(device) if device is not None else _device(model)
    current = copy.deepcopy(model).to(place)
    example = _first_images(reference)[:1].to(place)
    repair_data = reference if recovery_data is None else recovery_data
    found = find_groups(current, example)
    groups = tuple(group.planned(range(group.units)) for group in found.groups)
    cost = cost_model(kind, current, groups, example)
    check_reachable(groups, cost, kept, floor)
    report = {name: cost_model(name, current, groups, example) for name in ("macs", "params")}
    original = copy.deepcopy(current)

    judge = Validation(current, validation, task, place)
    base = judge.metric(judge.original)
    history = [StepRecord(0, 1.0, 1.0, 1.0, base, base)]
    on_step(history[0])
    repairs = [begin(each, original, groups, repair_data, device=place) for each in tries(recovery)]
    names = (normalise,) if normalise else CANDIDATES[ranking]

    def attempt(
        model: nn.Module,
        before_cut: tuple[PlannedGroup, ...],
        name: str | None,
        cut: tuple[PlannedGroup, ...],
    ) -> Iterator[_Candidate]:
        smaller = copy.deepcopy(model) if len(names) > 1 else model
        narrow(smaller, cut, before_cut)
        outputs = judge.outputs(smaller)
        before = judge.metric(outputs)
        yield _Candidate(judge.divergence(outputs), smaller, cut, name, before, before)
        for repair in repairs:
            repaired = copy.deepcopy(smaller)
            repair(repaired, cut)
            outputs = judge.outputs(repaired)
            after = judge.metric(outputs)
            yield _Candidate(judge.divergence(outputs), repaired, cut, name, before, after)

    for step in range(1, steps + 1):
        scores = score(
            current, reference, criterion=criterion, rules=rules, groups=groups, seed=seed + step,
            device=place,
        )  # fmt: skip
        target = kept ** (step / steps)  # every step takes the same part of what is left
        cuts = {
            name: cut_to_budget(
                groups, scores.values, cost, target, ranking=ranking, normalise=name, floor=floor,
                tolerance=TOLERANCE if step == steps else 1.0,  # on the way, near is good enough
            )
            for name in names
        }  # fmt: skip
        tried = (attempt(current, groups, name, cut) for name, cut in cuts.items())
        best = min(itertools.chain.from_iterable(tried), key=_distance)
        current, groups = best.model, best.groups
        removed = np.array([len(group.removed) for group in groups], dtype=np.float64)
        shares = {n: c(removed) / c(np.zeros_like(removed)) for n, c in report.items()}
        units = sum(group.units for group in groups)
        history.append(
            StepRecord(
                step,
                shares["macs"],
                shares["params"],
                1 - float(removed.sum()) / units,
                best.before,
                best.after,
                best.normalise,
            )
        )
        on_step(history[-1])
    settings = {
        "criterion": scores.criterion, "budget": {kind: 1 - kept if kind == "ratio" else kept},
        "steps": steps, "ranking": ranking, "normalise": normalise, "floor": floor,
        "recovery": recovery, "reference_images": scores.count, "seed": seed,
    }  # fmt: skip
    plan = finish(original, groups, example, settings)
    measured = (
        evaluate(
            current, validation, original=original, task=task, split="validation", rules=rules,
            seed=seed, device=place,
        )
        if evidence
        else None
    )  # fmt: skip
    return Pruned(current, plan, measured, tuple(history), settings)


def _first_images(data: Iterable[Any]) -> Tensor:
    for batch in data:
        return unpack(batch)[0]
    raise DebrideError("the reference data are empty: give at least one image")


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
