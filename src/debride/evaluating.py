"""The work behind ``debride evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from debride import provenance, screens
from debride.artifact.bundle import read_bundle, write_findings
from debride.errors import DebrideError
from debride.evidence import evaluate as measure_evidence
from debride.files import check_free
from debride.opening import open_job
from debride.provenance import Stopwatch
from debride.report import render
from debride.reporting import names_of

if TYPE_CHECKING:
    from debride.settings import EvaluateSettings


def evaluate(settings: EvaluateSettings) -> None:
    """Measure a network on a split, alone or beside its original."""
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
    run = provenance.collect(
        "evaluate",
        settings,
        watch,
        source=job.source,
        device=job.network.device,
        results=history,
    )
    names = names_of(job.source, split) if settings.show_names else None
    html = render(run, evidence, plan, show_names=settings.show_names, names=names)
    write_findings(settings.out, plan=plan, run=run, evidence=evidence, report_html=html)
    screens.say("report", str(settings.out / "report.html"))
