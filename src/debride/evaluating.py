"""The work behind ``debride evaluate``, and the evidence of the other commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from debride import provenance, screens
from debride.artifact.bundle import read_bundle, write_findings
from debride.errors import DebrideError
from debride.evidence import Evidence
from debride.evidence import evaluate as measure_evidence
from debride.evidence.columns import check_columns
from debride.evidence.explanations import explainer_of
from debride.evidence.robustness import Scale
from debride.evidence.verdict import OUTCOMES, read_limits
from debride.files import check_free
from debride.opening import Job, open_job
from debride.options import pairs_of
from debride.provenance import Stopwatch
from debride.relevance.rules import rule_set
from debride.report import pages
from debride.reporting import names_of

if TYPE_CHECKING:
    from debride.settings import ApplySettings, EvaluateSettings, EvidenceSettings, PruneSettings

    Measuring = EvaluateSettings | PruneSettings | ApplySettings


def check_evidence(settings: Measuring, job: Job, split: str) -> None:
    """Refuse limits, columns, methods and networks that are not there, before hours of work."""
    read_limits(pairs_of(settings.limit, "--limit"))
    check_columns(list(job.columns(split)), _wanted(settings))
    for method in _methods(settings) or ():
        explainer_of(method)
    rule_set(settings.heatmap_rules)
    if settings.yardstick is not None:
        _beside(settings, settings.yardstick, job)


def evidence_of(
    settings: Measuring, job: Job, split: str, model: nn.Module, original: nn.Module | None
) -> Evidence:
    """Measure a network, and its original, on a split of the job's images."""
    wanted, folder = _wanted(settings), settings.yardstick
    prepared = job.network.preprocessing
    return measure_evidence(
        model,
        job.measured(split),
        original=original,
        task=job.task,
        classes=job.source.classes,
        split=split,
        explain=settings.explain,
        methods=_methods(settings),
        second=None if folder is None else _beside(settings, folder, job),
        robustness=settings.robustness,
        scale=Scale(prepared.mean, prepared.std),
        speed=settings.speed,
        onnx_speed=settings.onnx_speed,
        rules=job.network.rules(settings.heatmap_rules),
        columns=None if wanted == () else job.columns(split),
        subgroups=wanted,
        specificity=settings.specificity,
        limits=read_limits(pairs_of(settings.limit, "--limit")),
        seed=settings.seed,
    )


def _beside(settings: Measuring, folder: Path, job: Job) -> nn.Module:
    """Open another network that sees the same images and decides between the same classes."""
    other = read_bundle(folder, trust=settings.trust, device=job.network.device)
    if other.classes != job.source.classes:
        raise DebrideError(
            f"'{folder}' decides between {', '.join(other.classes)}, "
            f"'{settings.model}' between {', '.join(job.source.classes)}: "
            "compare networks of the same classes"
        )
    if other.preprocessing != job.network.preprocessing:
        raise DebrideError(
            f"'{folder}' wants its images prepared in another way than "
            f"'{settings.model}': compare networks that see the same images"
        )
    return other.model


def _methods(settings: EvidenceSettings) -> tuple[str, ...] | None:
    return () if settings.evidence_methods == ("none",) else settings.evidence_methods


def _wanted(settings: EvidenceSettings) -> tuple[str, ...] | None:
    return () if settings.subgroups == ("none",) else settings.subgroups


def evaluate(settings: EvaluateSettings) -> bool:
    """Measure a network on a split, alone or beside its original.

    Returns
    -------
    bool
        False where the verdict is what ``--fail-on`` names, or worse.
    """
    watch = Stopwatch()
    if settings.out is not None:
        if (settings.out / "model.json").exists():
            raise DebrideError(f"'{settings.out}' holds a run: give --out another folder")
        check_free(settings.out, overwrite=True)
    job = open_job(settings)
    screens.show_job(job)
    split = settings.split
    if not job.source.splits.get(split):
        there = ", ".join(name for name, records in job.source.splits.items() if records)
        raise DebrideError(f"'{job.source.name}' has no {split} images: give --split {there}")
    check_evidence(settings, job, split)
    original = None
    if settings.original is not None:
        original = _beside(settings, settings.original, job)
    with watch.part("evidence"):
        evidence = evidence_of(settings, job, split, job.network.model, original)
    screens.show_evidence(evidence, names=("original", "network"))
    good = True
    if evidence.verdict is not None and settings.fail_on is not None:
        outcome = OUTCOMES.index(evidence.verdict["outcome"])
        good = outcome < OUTCOMES.index(settings.fail_on)
    if settings.out is None:
        return good
    parent = job.network.parent
    plan = parent.plan if parent is not None else None
    history = {"history": parent.run["history"]} if parent and "history" in parent.run else {}
    run = provenance.collect(
        "evaluate",
        settings,
        watch,
        source=job.source,
        device=job.network.device,
        results=history,
    )
    names = names_of(job.source, split) if settings.show_names else None
    texts = pages(run, evidence, plan, show_names=settings.show_names, names=names)
    write_findings(settings.out, plan=plan, run=run, evidence=evidence, texts=texts)
    screens.say("report", str(settings.out / "report.html"))
    return good
