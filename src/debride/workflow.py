"""The work behind each command: open, check, do, measure, write."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from debride import provenance, screens
from debride.artifact.bundle import write_bundle
from debride.checks import Check, check
from debride.criteria import check_criterion, criterion_options
from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.evaluating import check_evidence, evidence_of
from debride.evidence import Evidence
from debride.evidence import evaluate as measure_evidence
from debride.files import UNFINISHED_POINTS, check_free
from debride.finetuning import tell as tell_epoch
from debride.finetuning import told, training_images, tune, tuning_of
from debride.learning import EpochRecord
from debride.metrics import read_metric
from debride.opening import RANDOM, Job, open_job
from debride.options import pairs_of, values_of
from debride.planning.applying import restated
from debride.planning.make import check_members
from debride.planning.plan import Plan
from debride.planning.search import Curve, StepRecord
from debride.points import check_points
from debride.progress import track
from debride.provenance import Stopwatch
from debride.pruning import STEPS
from debride.pruning import prune as cut_in_steps
from debride.recovery import begin
from debride.reference import check_strategy
from debride.relevance.rules import rule_set
from debride.report import pages
from debride.reporting import names_of
from debride.resume import check_progress
from debride.reviewing.showing import open_plan
from debride.settings.finetuning import FinetuneSettings
from debride.surgery.removal import apply as cut
from debride.training import DEFAULT_RATE
from debride.training import train as fit
from debride.visited import curve_files, take

if TYPE_CHECKING:
    from debride.config import Settings
    from debride.settings import (
        ApplySettings,
        PruneSettings,
        TrainSettings,
    )

_RESUMED = set(
    "model epochs seed batch_size validation classes image_size resize crop channels mean "
    "std".split()
)
"""Settings that must be the same where a training goes on."""
_NOT_COMPARED = {
    *"out overwrite explain speed show_names force trust device from_ at".split(),
    *"subgroups specificity limit evidence_methods yardstick robustness onnx_speed".split(),
    *(name for name in FinetuneSettings.model_fields if name.startswith("finetune")),
}
"""Settings that may be others where a pruning goes on; fine-tuning compares its own."""
_PASSED_ON = (
    "macs params bytes latency latency_table ratio max_drop max_drift confidence steps ranking "
    "normalise floor round_to protect residual_width recovery seed"
).split()


def train(settings: TrainSettings) -> None:
    """Train a baseline and write it with its evidence and report."""
    watch = Stopwatch()
    check_free(settings.out, settings.overwrite)
    asked = settings.model_dump(mode="json", include=_RESUMED)
    asked["lr"] = settings.lr or DEFAULT_RATE
    resuming = check_progress(settings.out, asked)
    job = open_job(settings, fresh=True)
    network = job.network
    if network.parent is not None and network.parent.plan is not None:
        raise DebrideError(
            f"'{network.parent.folder}' holds a pruned network, which debride train does not "
            "train further: give the name of a network"
        )
    screens.show_job(job)
    if resuming:
        screens.say("resuming", f"the unfinished training in {settings.out}")

    def tell(record: EpochRecord) -> None:
        left = record.seconds * (settings.epochs - record.epoch)
        screens.say(
            f"epoch {record.epoch}",
            f"loss {record.loss:.3f}, validation {_metric(job)} {record.metric:.3f}"
            + (f" (at most {screens.duration(left)} left)" if left >= 1 else ""),
        )

    with watch.part("training"):
        result = fit(
            network.model,
            job.batches("train", shuffle=True, augment=True),
            job.batches("val"),
            task=job.task,
            classes_counts=job.source.counts("train"),
            epochs=settings.epochs,
            lr=settings.lr,
            seed=settings.seed,
            device=network.device,
            folder=settings.out,
            recorded={**asked, "images": job.source.fingerprint()},
            on_epoch=tell,
        )
    results = {
        "training": {
            "best_epoch": result.best_epoch,
            "best_metric": result.best_metric,
            "history": [dataclasses.asdict(record) for record in result.history],
        },
        "validation": {"model": result.best_metric, "metric": _metric(job)},
    }
    with watch.part("evidence"):
        evidence = measure_evidence(
            network.model,
            job.measured(job.final_split),
            task=job.task,
            classes=job.source.classes,
            split=job.final_split,
            explain=settings.explain,
            methods=(),
            robustness=0,
            speed=settings.speed,
            columns=job.columns(job.final_split),
            seed=settings.seed,
        )
    run = _run("train", settings, watch, job, results)
    _write(settings.out, job, run, evidence, None, {})
    screens.say("best", f"epoch {result.best_epoch}, {_metric(job)} {result.best_metric:.3f}")
    found = checked(job, network.model)
    if not found.passed:
        screens.warn(guessing(job, found, trained=True))
    screens.show_evidence(evidence, names=("", "trained"))
    _done(settings.out / "report.html")


def prune(settings: PruneSettings) -> None:
    """Cut a network down step by step, measure it beside the original, and write it."""
    watch = Stopwatch()
    check_free(settings.out, settings.overwrite, settings.model)
    options = check_choices(settings)
    asked = settings.model_dump(mode="json", exclude=_NOT_COMPARED)
    done = 0 if settings.from_ is not None else check_points(settings.out, asked)
    job = open_job(settings)
    check_whole(job)
    check_evidence(settings, job, job.final_split)
    metric = settings.metric and read_metric(settings.metric, job.source.classes)
    screens.show_job(job)
    with watch.part("checking"):
        before = _check(job, force=settings.force)
    if settings.from_ is not None and settings.at is not None:
        taken = take(settings.from_, settings.at, job.network.model)
        screens.show_curve(taken.curve)
        recorded = {**asked, "from": str(settings.from_), "at": settings.at}
        tuned = _tuned(settings, watch, job, taken.model, taken.plan, recorded)
        _finish("prune", settings, watch, job, before, taken.model, taken.plan, taken.curve, tuned)
        return
    searching = settings.max_drop is not None or settings.max_drift is not None
    if done:
        screens.say("resuming", f"the {screens.plural(done, 'step')} kept in {settings.out}")
    with watch.part("reference"):
        chosen = job.choose(
            settings.reference,
            strategy=settings.reference_strategy,
            correct_only=settings.reference_correct,
        )
    steps: Iterable[int] = count() if searching else range(settings.steps or STEPS)
    bar = track(steps, "searching" if searching else "pruning")

    def tell(record: StepRecord) -> None:
        screens.show_step(record)
        next(bar, None)

    with watch.part("pruning"), contextlib.closing(bar):
        pruned = cut_in_steps(
            job.network.model,
            job.reference(chosen),
            job.batches("val"),
            criterion=settings.criterion,
            options=options,
            rules=settings.rules,
            heatmap_rules=job.network.rules(settings.heatmap_rules),
            **{name: getattr(settings, name) for name in _PASSED_ON},
            metric=metric,
            recovery_data=job.recalibration(),
            finetune=tuning_of(settings),
            finetune_data=training_images(job),
            task=job.task,
            evidence=False,  # measured on the test images, once, at the end
            folder=settings.out,
            recorded={**asked, "images": job.source.fingerprint()},
            on_step=tell,
            on_epoch=tell_epoch(settings.metric or _metric(job)),
        )
    if pruned.curve is not None:
        screens.show_curve(pruned.curve)
    results = {
        "reference": dataclasses.asdict(chosen),
        "history": [dataclasses.asdict(record) for record in pruned.history],
        **told(pruned.finetuned, settings.metric or _metric(job)),
    }
    _finish("prune", settings, watch, job, before, pruned.model, pruned.plan, pruned.curve, results)


def check_choices(settings: PruneSettings) -> dict[str, Any]:
    """Refuse criteria, options, strategies and rules that are not there; return the options."""
    pairs = pairs_of(settings.option)
    check_criterion(settings.criterion, pairs)
    check_strategy(settings.reference_strategy)
    rule_set(settings.rules)
    rule_set(settings.heatmap_rules)
    return values_of(settings.criterion, pairs, criterion_options(settings.criterion) or {})


def apply(settings: ApplySettings) -> None:
    """Apply a plan to a network, measure it beside the original, and write it."""
    watch = Stopwatch()
    check_free(settings.out, settings.overwrite, settings.model)
    plan = open_plan(settings.plan, "--plan")
    job = open_job(settings)
    check_whole(job)
    check_evidence(settings, job, job.final_split)
    screens.show_job(job)
    plan.check(job.network.model)
    example, _ = unpack(next(iter(job.batches("val", batch_size=1))))
    example = example.to(job.network.device)
    check_members(job.network.model, plan, example)
    plan, differences = restated(job.network.model, plan, example)
    for difference in differences:
        screens.warn(difference)
    with watch.part("checking"):
        before = _check(job, force=settings.force)
    with watch.part("pruning"):
        model = cut(job.network.model, plan)
        original, images = job.network.model, job.recalibration()
        begin(settings.recovery, original, plan.groups, images)(model, plan.groups)
    asked = settings.model_dump(mode="json", exclude={*_NOT_COMPARED, "plan"})
    results = _tuned(settings, watch, job, model, plan, asked)
    _finish("apply", settings, watch, job, before, model, plan, results=results)


def _tuned(
    settings: PruneSettings | ApplySettings,
    watch: Stopwatch,
    job: Job,
    model: nn.Module,
    plan: Plan,
    recorded: Mapping[str, Any],
) -> dict[str, Any]:
    """Fine-tune in place, if that is asked for; return what goes into ``run.json``."""
    with watch.part("fine-tuning"):
        tuned = tune(settings, job, model, plan, metric=_metric(job), recorded=recorded)
    return told(tuned, _metric(job))


def _finish(
    command: str,
    settings: PruneSettings | ApplySettings,
    watch: Stopwatch,
    job: Job,
    before: Check,
    model: nn.Module,
    plan: Plan,
    curve: Curve | None = None,
    results: Mapping[str, Any] | None = None,
) -> None:
    """Measure the smaller network beside the original, write the folder, print the table."""
    with watch.part("evidence"):
        after = checked(job, model)
        evidence = evidence_of(settings, job, job.final_split, model, job.network.model)
    validation = {"original": before.score, "model": after.score}
    results = {**(results or {}), "validation": {**validation, "metric": _metric(job)}}
    if curve is not None:
        results["curve"] = curve.to_dict()
    run = _run(command, settings, watch, job, results)
    names = names_of(job.source, job.final_split) if settings.show_names else {}
    smaller = dataclasses.replace(job, network=dataclasses.replace(job.network, model=model))
    _write(settings.out, smaller, run, evidence, plan, names, curve)
    screens.show_evidence(evidence, validation=validation, metric=_metric(job))
    if before.passed and not after.passed:
        screens.warn(
            f"the smaller network is no better than chance on the validation images "
            f"({after.score:.3f}): keep more (--macs), or cut in more --steps"
        )
    _done(settings.out / "report.html")
    screens.say("use it", f"python {settings.out / 'predict.py'} IMAGE")


def check_whole(job: Job) -> None:
    """Refuse a network that is already cut: a plan counts from the whole one."""
    parent = job.network.parent
    if parent is not None and parent.plan is not None:
        raise DebrideError(
            f"'{parent.folder}' is already pruned: start from the network it was cut from, "
            "with a smaller budget"
        )


def _run(
    command: str, settings: Settings, watch: Stopwatch, job: Job, results: Mapping[str, Any]
) -> dict[str, Any]:
    return provenance.collect(
        command, settings, watch, source=job.source, device=job.network.device, results=results
    )


def _metric(job: Job) -> str:
    return "ROC AUC" if job.task == "multilabel" else "balanced accuracy"


def _check(job: Job, *, force: bool) -> Check:
    """Say how good the network is; stop where it is no better than guessing."""
    found = checked(job, job.network.model)
    screens.show_check(found, len(job.source.splits["val"]))
    if found.passed:
        return found
    message = guessing(job, found)
    if not force:
        raise DebrideError(f"{message}; go on all the same with --force")
    screens.warn(message)
    return found


def guessing(job: Job, found: Check, *, trained: bool = False) -> str:
    """Say that a network is no better than chance, and what may help."""
    order, parent = found.better_order, job.network.parent
    if trained:
        way_out = "train it with more --epochs, a smaller --batch-size or another --lr"
    elif order is not None:
        way_out = f"with --classes {','.join(order)} it would be clearly better"
    elif parent is not None:
        way_out = (
            f"'{parent.folder}' was trained for other images, or for too short: train it with more "
            "--epochs or a smaller --batch-size"
        )
    elif job.network.weights == RANDOM:
        way_out = "its weights are random: give --weights, or as --model a trained network's folder"
    else:
        way_out = "check --weights, --classes (order), --mean, --std, --image-size and --channels"
    return (
        f"the network is no better than chance on the validation images ({found.score:.3f}, "
        f"guessing reaches {found.needed:.3f}): {way_out}"
    )


def checked(job: Job, model: nn.Module) -> Check:
    """Measure a network on the validation images, beside guessing."""
    return check(
        model,
        job.batches("val"),
        task=job.task,
        classes=job.source.classes,
        device=job.network.device,
    )


def _write(
    out: Path,
    job: Job,
    run: Mapping[str, Any],
    evidence: Evidence,
    plan: Plan | None,
    names: Mapping[int, str],
    curve: Curve | None = None,
) -> None:
    visited = out / UNFINISHED_POINTS
    texts = pages(run, evidence, plan, show_names=bool(names), names=names or None)
    write_bundle(
        out,
        job.network.model,
        spec=job.network.spec,
        preprocessing=job.network.preprocessing,
        classes=job.source.classes,
        task=job.task,
        plan=plan,
        run=run,
        evidence=evidence,
        texts=texts if curve is None else texts | curve_files(curve, job.source.classes),
        points=visited if curve is not None and visited.is_dir() else None,
    )


def _done(report: Path) -> None:
    screens.say("report", str(report))
