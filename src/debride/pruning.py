"""The loop that cuts a network down: score, plan, cut, repair, measure, and again."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debride.criteria import check_criterion, score, with_defaults
from debride.criteria.scores import Scores
from debride.data.batches import check_repeatable, unpack
from debride.drift import Drift
from debride.errors import DebrideError
from debride.evidence import Evidence, evaluate
from debride.learning import EpochRecord
from debride.models.outputs import Task
from debride.planning.budgets import cost_model
from debride.planning.fitting import lowest_share
from debride.planning.goals import goal_of, read_budget, read_budgets
from debride.planning.groups import find_groups
from debride.planning.limits import limits_of
from debride.planning.make import finish
from debride.planning.plan import Plan, PlannedGroup
from debride.planning.ranking import check_ranking, ranked_together
from debride.planning.search import Curve, Descent, Search, StepRecord, read_floor
from debride.points import Points
from debride.recovery import begin, check_recovery, tries
from debride.recovery.finetune import FineTuned, FineTuning
from debride.recovery.finetune import finetune as learn_from
from debride.relevance.rules import HEATMAPS, RuleSet, rule_set
from debride.stepping import CANDIDATES, Stepper, record_of
from debride.timing import stopwatch
from debride.validation import Validation

STEPS = 8
"""Cuts on the way to a budget, unless said otherwise."""

STEPS_A_HALVING = 3
"""Cuts in which a search comes down to half of the MACs, unless said otherwise."""


Visit = Callable[[StepRecord, nn.Module, tuple[PlannedGroup, ...]], None]
"""What is told of a network as it is made: its record, itself, and what its groups keep."""


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
    curve : Curve or None
        All that a search visited.
    finetuned : FineTuned or None
    """

    model: nn.Module
    plan: Plan
    evidence: Evidence | None
    history: tuple[StepRecord, ...]
    settings: dict[str, Any]
    curve: Curve | None = None
    finetuned: FineTuned | None = None

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
    options: Mapping[str, Any] | None = None,
    rules: str = "epsilon",
    heatmap_rules: str | RuleSet = HEATMAPS,
    macs: float | Sequence[float] | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    ratio: float | None = None,
    max_drop: float | None = None,
    max_drift: float | None = None,
    metric: str | None = None,
    confidence: float = 0.95,
    steps: int | None = None,
    ranking: str = "global",
    normalise: str | None = None,
    floor: float = 0.05,
    round_to: int = 1,
    protect: Sequence[str] = (),
    residual_width: bool = False,
    latency_table: str | Path | None = None,
    recovery: str | None = "reconstruction",
    recovery_data: Iterable[Any] | None = None,
    finetune: FineTuning | int | None = None,
    finetune_data: Iterable[Any] | None = None,
    task: Task | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    evidence: bool = True,
    folder: str | Path | None = None,
    recorded: Mapping[str, Any] | None = None,
    on_step: Callable[[StepRecord], None] = lambda _: None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    on_network: Visit = lambda *_: None,
) -> Pruned:
    """Cut a network down to a budget, or as far as a floor allows, scoring what is left each time.

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
    options : mapping, optional
        The criterion's own, such as ``{"n_steps": 16}`` of ``"ig"``: see `debride.score`.
    rules : str
        The rule set of the criterion ``"lrp"``.
    heatmap_rules : str or RuleSet
        That of the heatmaps that are compared.
    macs, params, bytes, latency : float, optional
        Fraction of the multiply-accumulates, the parameters, the bytes on disk, or the measured
        CPU latency of one image to keep; half of the MACs by default. Several fractions of MACs,
        from the largest to the smallest, are met one after the other, each in one step.
    ratio : float, optional
        Fraction of the units to remove.
    max_drop, max_drift : float, optional
        Instead of a budget: the largest cut is searched for whose validation metric falls by no
        more than `max_drop` with a sureness of `confidence` (see `debride.metrics.drop_bound`),
        and whose heatmaps drift by no more than `max_drift`, that is 1 − their mean rank
        correlation with the original's on 32 validation images.
    metric : str, optional
        ``"balanced_accuracy"``, ``"auc"`` or ``"recall:2"`` (of class 2); balanced accuracy by
        default, macro ROC AUC if multi-label.
    confidence : float
        One-sided; 0.5 takes the drop as it was measured.
    steps : int, optional
        Cuts on the way to the budget, each of the same part of what is left, by default 8. In a
        search: cuts for each halving of the MACs, by default 3.
    ranking : str
        ``"global"``, ``"isomorphic"`` (among groups of the same kinds and shapes) or ``"layer"``.
    normalise : str, optional
        See `debride.planning.ranking`. By default each step of a global ranking tries
        ``"share_width"`` and ``"share_width_rank"`` and keeps the one whose outputs on the
        validation images are nearer to the original's; their labels have no part in it. A search
        has no time for both: it takes the second, and plain or repaired by `recovery` alone.
    floor : float
        Fraction of its units that every group keeps at least.
    round_to : int
        Widths kept are multiples of this.
    protect : sequence of str
        Names or patterns (``layer4.*``) of layers whose outputs are not cut.
    residual_width : bool
        Cut the width of residual streams too, those of transformers and ConvNeXt.
    latency_table : str or Path, optional
        Latencies to plan by instead of measuring; see `debride.planning.latency.table_cost`.
    recovery : str or None
        What is done after each step: ``"batchnorm"`` recalibrates, ``"mean"`` also corrects
        biases, ``"least_squares"`` also gives readers the weights that best repeat their output,
        ``"reconstruction"`` gives them to every layer, on what the cut network itself reads. It
        is kept where the outputs are nearer to the original's with it.
    recovery_data : iterable, optional
        Re-iterable training images for that, without need of labels; `reference` by default.
    finetune : FineTuning or int, optional
        How the network is trained at the end, or for how many epochs. A search that its result
        would break the floor of keeps the network as it was before.
    finetune_data : iterable, optional
        Re-iterable training images for that, shuffled, labelled if labels have a weight;
        `recovery_data` by default.
    task : str, optional
        ``"multiclass"``, ``"binary"`` or ``"multilabel"``; read off the outputs by default.
    seed : int
        For criteria that draw, and the choice of images in the evidence.
    device : str or torch.device, optional
        Where the work is done; the network's own by default.
    evidence : bool
        Whether to measure the result beside the original on `validation`.
    folder : str or Path, optional
        Where the steps are kept, and all networks that a search visits. Work that was interrupted
        there goes on, and ends as if it had not been, until a network is saved to the folder.
    recorded : mapping, optional
        Further settings, kept with the steps: who goes on must give the same.
    on_step, on_epoch : callable
        Called with each `StepRecord`, and `EpochRecord` of fine-tuning, as soon as it is known.
    on_network : callable
        Called before a step is kept with its `StepRecord`, its network, which must stay as it is,
        and what its groups keep; for step 0 with the original.

    Raises
    ------
    DebrideError
        When nothing can be cut, the budget cannot be met within 0.01 of the original total (a
        measured latency: 0.05), or no cut keeps the floor.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten(),
    ...                     nn.Linear(64, 2))
    >>> data = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]
    >>> small = prune(net, data, data, macs=0.5, steps=2, evidence=False)
    >>> small.plan.macs_kept < 0.51
    True
    """
    check_repeatable(
        reference=reference, validation=validation, recovery_data=recovery_data,
        finetune_data=finetune_data,
    )  # fmt: skip
    tuning = FineTuning(epochs=finetune) if isinstance(finetune, int) else finetune
    several = read_budgets(macs, steps) if isinstance(macs, Sequence) else ()
    macs = several[-1] if isinstance(macs, Sequence) else macs
    budgets = {"macs": macs, "params": params, "bytes": bytes, "latency": latency, "ratio": ratio}
    floors = read_floor(max_drop, max_drift, metric, confidence, budgets)
    kind, kept = read_budget(**budgets) if floors is None else ("macs", 1.0)
    check_criterion(criterion, options or ())
    check_recovery(recovery)
    check_ranking(ranking, normalise)
    rule_set(rules)
    heatmap_rules = rule_set(heatmap_rules)
    steps = (STEPS if floors is None else STEPS_A_HALVING) if steps is None else steps
    if steps < 1:
        raise DebrideError(f"steps={steps}: give 1 or more")
    place = torch.device(device) if device is not None else _device(model)
    original = copy.deepcopy(model).to(place)
    example = _first_images(reference)[:1].to(place)
    repair_data = reference if recovery_data is None else recovery_data
    found = find_groups(original, example, residual_width=residual_width)
    whole = tuple(group.planned(range(group.units)) for group in found.groups)
    limits = limits_of(original, whole, floor=floor, round_to=round_to, protect=protect)
    goal = goal_of(kind, kept, original, whole, example, latency_table=latency_table)
    sets = ranked_together(ranking, original, whole)
    if floors is None:
        goal.check(whole, limits)
    costs = {name: cost_model(name, original, whole, example) for name in ("macs", "params")}

    judge = Validation(original, validation, task, place, metric)
    names = (normalise,) if normalise else CANDIDATES[ranking]
    mended = tries(recovery)
    if floors is not None:  # a search has no time for all
        names, mended = names[-1:], mended[-1:]
    asked = 1 - kept if kind == "ratio" else kept
    settings: dict[str, Any] = {
        "criterion": criterion, "rules": rules, "steps": steps, "ranking": ranking,
        "normalise": normalise, "floor": floor, "round_to": round_to, "protect": list(protect),
        "recovery": recovery, "seed": seed,
        **({"residual_width": True} if residual_width else {}),
        **({"options": every} if (every := with_defaults(criterion, options or {})) else {}),
        **({"budget": {kind: list(several) or asked}} if floors is None
           else {**asdict(floors), "metric": judge.measure, "heatmap_rules": heatmap_rules.name}),
    }  # fmt: skip
    points = Points(
        original, whole, {**settings, **(recorded or {})},
        None if folder is None else Path(folder), keep_all=floors is not None,
    )  # fmt: skip
    now = stopwatch(place)
    walk: Descent | Search = Descent.through(several) if several else Descent.to(kept, steps)
    drift: Drift | None = None
    if floors is not None:
        walk = Search(lowest_share(whole, goal.cost, limits), 0.5 ** (1 / steps))
        with _timed(now, points.seconds, "attribution"):
            drift = Drift(
                original, validation, judge.task, rules=heatmap_rules, seed=seed, device=place
            )
    with _timed(now, points.seconds, "search"):
        repairs = [begin(each, original, whole, repair_data, device=place) for each in mended]
    stepper = Stepper(goal, limits, sets, ranking, names, repairs, judge)

    def add(record: StepRecord, model: nn.Module, cut: tuple[PlannedGroup, ...]) -> None:
        made_by = {**settings, "step": record.step}
        on_network(record, model, cut)
        points.add(record, model, cut, lambda: finish(original, cut, example, made_by))

    if not points.records:
        points.seconds.setdefault("evaluation", judge.seconds)
        base = judge.metric(judge.original)
        add(StepRecord(0, 1.0, 1.0, 1.0, base, base), original, whole)
    for record in points.records:
        on_step(record)

    scored: tuple[int, Scores] | None = None
    while (move := walk.next(points.records)) is not None:
        begun = now() - points.seconds.get("attribution", 0.0)
        current, groups = points.network(move.start)
        with points.begun():
            if scored is None or scored[0] != move.start:
                with _timed(now, points.seconds, "attribution"):
                    scores = score(
                        current, reference, criterion=criterion, rules=rules, groups=groups,
                        seed=seed + move.start + 1, device=place, **(options or {}),
                    )  # fmt: skip
                scored = move.start, scores
            best = stepper.best(current, groups, scored[1].values, move)
        record = record_of(best, len(points.records), move.start, costs)
        if floors is not None and drift is not None:
            with _timed(now, points.seconds, "attribution"):
                drifted = drift(best.model)
            bound = judge.drop_bound(best.outputs, confidence)
            good = floors.holds(bound, drifted)
            record = replace(record, drop_bound=bound, drift=drifted, good=good)
        spent = now() - points.seconds["attribution"] - begun
        points.seconds["search"] = points.seconds.get("search", 0.0) + spent
        add(record, best.model, best.groups)
        on_step(record)
    chosen = walk.chosen(points.records)
    if floors is not None and chosen.step == 0:
        points.discard()
        raise DebrideError(floors.refusal(points.records, judge.measure, len(judge.labels)))
    current, groups = points.network(chosen.step)
    tuned: FineTuned | None = None
    if tuning is not None:
        repaired, current = current, copy.deepcopy(current)
        tuned = learn_from(
            current, original, repair_data if finetune_data is None else finetune_data,
            judge.measured, tuning, task=judge.task, groups=groups, seed=seed, device=place,
            folder=folder, recorded={**settings, **(recorded or {})}, on_epoch=on_epoch,
        )  # fmt: skip
        if floors is not None and drift is not None:
            bound = judge.drop_bound(judge.outputs(current), confidence)
            if not floors.holds(bound, drift(current)):
                current, tuned = repaired, replace(tuned, kept=False)
    settings["reference_images"] = sum(len(unpack(batch)[0]) for batch in reference)
    if goal.clock is not None:
        settings["measured_latency"] = asdict(goal.clock.share(current))
    measured = (
        evaluate(
            current, validation, original=original, task=task, split="validation",
            rules=heatmap_rules, seed=seed, device=place,
        )
        if evidence
        else None
    )  # fmt: skip
    curve = None
    if floors is not None:
        curve = Curve(points.records, chosen.step, judge.measure, floors, dict(points.seconds))
    plan = finish(original, groups, example, settings)
    return Pruned(current, plan, measured, points.records, settings, curve, tuned)


@contextlib.contextmanager
def _timed(now: Callable[[], float], seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = now()
    yield
    seconds[name] = seconds.get(name, 0.0) + now() - begun


def _first_images(data: Iterable[Any]) -> Tensor:
    for batch in data:
        return unpack(batch)[0]
    raise DebrideError("the reference data are empty: give at least one image")


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
