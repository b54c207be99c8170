"""The work behind each command: open, check, do, measure, write."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from debride import provenance, screens
from debride.artifact.bundle import read_bundle, write_bundle, write_findings
from debride.checks import Check, check
from debride.criteria import check_criterion
from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.evidence import Evidence
from debride.evidence import evaluate as measure_evidence
from debride.files import UNFINISHED
from debride.opening import Job, open_job
from debride.planning.make import check_members
from debride.planning.plan import Plan
from debride.planning.search import StepRecord
from debride.progress import track
from debride.provenance import Stopwatch
from debride.pruning import prune as cut_in_steps
from debride.recovery import begin
from debride.relevance.rules import rule_set
from debride.report import render
from debride.reporting import names_of, read_text
from debride.resume import check_progress
from debride.surgery.removal import apply as cut
from debride.training import DEFAULT_RATE, EpochRecord
from debride.training import train as fit

if TYPE_CHECKING:
    from debride.config import Settings
    from debride.settings import (
        ApplySettings,
        EvaluateSettings,
        PruneSettings,
        TrainSettings,
    )

_RESUMED = set(
    "epochs seed batch_size validation classes image_size resize crop channels mean std".split()
)
"""Settings that must be the same where a training goes on."""


def train(settings: TrainSettings) -> None:
    """Train a baseline and write it with its evidence and report."""
    watch = Stopwatch()
    _free(settings.out, settings.overwrite)
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
            recorded=asked,
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
            job.batches(job.final_split),
            task=job.task,
            classes=job.source.classes,
            split=job.final_split,
            explain=settings.explain,
            speed=settings.speed,
            seed=settings.seed,
        )
    run = _run("train", settings, watch, job, results)
    _write(settings.out, job, run, evidence, None, {})
    screens.say("best", f"epoch {result.best_epoch}, {_metric(job)} {result.best_metric:.3f}")
    screens.show_evidence(evidence, names=("", "trained"))
    _done(settings.out / "report.html")


def prune(settings: PruneSettings) -> None:
    """Cut a network down step by step, measure it beside the original, and write it."""
    if settings.macs is None and settings.ratio is None:
        settings = settings.model_copy(update={"macs": 0.5})
    watch = Stopwatch()
    _free(settings.out, settings.overwrite, settings.model)
    check_criterion(settings.criterion)
    rule_set(settings.rules)
    job = open_job(settings)
    _whole(job)
    screens.show_job(job)
    with watch.part("checking"):
        before = _check(job, force=settings.force)
    bar = track(range(settings.steps), "pruning")

    def tell(record: StepRecord) -> None:
        screens.show_step(record)
        next(bar, None)

    with watch.part("pruning"), contextlib.closing(bar):
        pruned = cut_in_steps(
            job.network.model,
            job.reference(settings.reference),
            job.batches("val"),
            criterion=settings.criterion,
            rules=settings.rules,
            macs=settings.macs,
            ratio=settings.ratio,
            steps=settings.steps,
            ranking=settings.ranking,
            floor=settings.floor,
            recovery=settings.recovery,
            recovery_data=job.recalibration(),
            task=job.task,
            seed=settings.seed,
            evidence=False,  # measured on the test images, once, at the end
            on_step=tell,
        )
    results = {"history": [dataclasses.asdict(record) for record in pruned.history]}
    _finish("prune", settings, watch, job, before, pruned.model, pruned.plan, results)


def apply(settings: ApplySettings) -> None:
    """Apply a plan to a network, measure it beside the original, and write it."""
    watch = Stopwatch()
    _free(settings.out, settings.overwrite, settings.model)
    plan = Plan.from_json(read_text(settings.plan, "--plan"))
    job = open_job(settings)
    _whole(job)
    screens.show_job(job)
    plan.check(job.network.model)
    example, _ = unpack(next(iter(job.batches("val", batch_size=1))))
    check_members(job.network.model, plan, example.to(job.network.device))
    with watch.part("checking"):
        before = _check(job, force=settings.force)
    with watch.part("pruning"):
        model = cut(job.network.model, plan)
        original, images = job.network.model, job.recalibration()
        begin(settings.recovery, original, plan.groups, images)(model, plan.groups)
    _finish("apply", settings, watch, job, before, model, plan, {})


def _finish(
    command: str,
    settings: PruneSettings | ApplySettings,
    watch: Stopwatch,
    job: Job,
    before: Check,
    model: nn.Module,
    plan: Plan,
    results: Mapping[str, Any],
) -> None:
    """Measure the smaller network beside the original, write the folder, print the table."""
    with watch.part("evidence"):
        after = _checked(job, model)
        evidence = measure_evidence(
            model,
            job.batches(job.final_split),
            original=job.network.model,
            task=job.task,
            classes=job.source.classes,
            split=job.final_split,
            explain=settings.explain,
            speed=settings.speed,
            rules=settings.rules,
            seed=settings.seed,
        )
    validation = {"original": before.score, "model": after.score}
    results = {**results, "validation": {**validation, "metric": _metric(job)}}
    run = _run(command, settings, watch, job, results)
    names = names_of(job.source, job.final_split) if settings.show_names else {}
    smaller = dataclasses.replace(job, network=dataclasses.replace(job.network, model=model))
    _write(settings.out, smaller, run, evidence, plan, names)
    screens.show_evidence(evidence, validation=validation, metric=_metric(job))
    if before.passed and not after.passed:
        screens.warn(
            f"the smaller network is no better than chance on the validation images "
            f"({after.score:.3f}): keep more (--macs), or cut in more --steps"
        )
    _done(settings.out / "report.html")
    screens.say("use it", f"python {settings.out / 'predict.py'} IMAGE")


def evaluate(settings: EvaluateSettings) -> None:
    """Measure a network on a split, alone or beside its original."""
    watch = Stopwatch()
    if settings.out is not None:
        if (settings.out / "model.json").exists():
            raise DebrideError(f"'{settings.out}' holds a run: give --out another folder")
        _free(settings.out, overwrite=True)
    job = open_job(settings)
    screens.show_job(job)
    split = settings.split
    if not job.source.splits.get(split):
        there = ", ".join(name for name, records in job.source.splits.items() if records)
        raise DebrideError(f"'{job.source.name}' has no {split} images: give --split {there}")
    original = None
    if settings.original is not None:
        other = read_bundle(settings.original, trust=settings.trust, device=job.network.device)
        if other.classes != job.source.classes:
            raise DebrideError(
                f"'{settings.original}' decides between {', '.join(other.classes)}, "
                f"'{settings.model}' between {', '.join(job.source.classes)}: "
                "compare networks of the same classes"
            )
        if other.preprocessing != job.network.preprocessing:
            raise DebrideError(
                f"'{settings.original}' wants its images prepared in another way than "
                f"'{settings.model}': compare networks that see the same images"
            )
        original = other.model
    with watch.part("evidence"):
        evidence = measure_evidence(
            job.network.model,
            job.batches(split),
            original=original,
            task=job.task,
            classes=job.source.classes,
            split=split,
            explain=settings.explain,
            speed=settings.speed,
            rules=settings.rules,
            seed=settings.seed,
        )
    screens.show_evidence(evidence, names=("original", "network"))
    if settings.out is None:
        return
    parent = job.network.parent
    plan = parent.plan if parent is not None else None
    history = {"history": parent.run["history"]} if parent and "history" in parent.run else {}
    run = _run("evaluate", settings, watch, job, history)
    names = names_of(job.source, split) if settings.show_names else None
    html = render(run, evidence, plan, show_names=settings.show_names, names=names)
    write_findings(settings.out, plan=plan, run=run, evidence=evidence, report_html=html)
    _done(settings.out / "report.html")


def _whole(job: Job) -> None:
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
    found = _checked(job, job.network.model)
    screens.show_check(found, len(job.source.splits["val"]))
    if found.passed:
        return found
    order = found.better_order
    way_out = (
        f"with --classes {','.join(order)} it would be clearly better"
        if order is not None
        else "check --weights, --classes (order), --mean, --std, --image-size and --channels"
    )
    message = (
        f"the network is no better than chance on the validation images ({found.score:.3f}, "
        f"guessing stays under {found.needed:.3f}): {way_out}"
    )
    if not force:
        raise DebrideError(f"{message}; go on all the same with --force")
    screens.warn(message)
    return found


def _checked(job: Job, model: nn.Module) -> Check:
    return check(
        model,
        job.batches("val"),
        task=job.task,
        classes=job.source.classes,
        device=job.network.device,
    )


def _free(out: Path, overwrite: bool, source: str = "") -> None:
    """Refuse, before any work, to write where something else is or where nothing can be."""
    if source and Path(source).is_dir() and out.resolve() == Path(source).resolve():
        raise DebrideError(f"--out '{out}' is the folder of --model: give a new folder")
    if out.is_dir() and any(out.iterdir()):
        finished = (out / "model.json").exists()
        others = (UNFINISHED, "evidence.json")  # a training, or what debride evaluate wrote
        if not finished and not any((out / name).exists() for name in others):
            raise DebrideError(
                f"'{out}' holds something that is not Debride's: give --out a new folder"
            )
        if finished and not overwrite:
            raise DebrideError(
                f"'{out}' holds a finished run: give another --out, or --overwrite to replace it"
            )
    elif out.exists() and not out.is_dir():
        raise DebrideError(f"'{out}' is a file: give --out a folder")
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".debride.", dir=existing)).rmdir()
    except OSError as error:
        raise DebrideError(
            f"cannot write in '{existing}' ({error.strerror}): give another --out"
        ) from None


def _write(
    out: Path,
    job: Job,
    run: Mapping[str, Any],
    evidence: Evidence,
    plan: Plan | None,
    names: Mapping[int, str],
) -> None:
    html = render(run, evidence, plan, show_names=bool(names), names=names or None)
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
        report_html=html,
    )


def _done(report: Path) -> None:
    screens.say("report", str(report))
