"""Evidence, run and plan in; one HTML file out, that needs nothing else to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from debride import __version__
from debride.evidence.evidence import Evidence, Sample
from debride.report import charts, curve, findings, heatmaps, provenance, reliability, words
from debride.report import reasons as likeness
from debride.report import robustness as corrupted

MOST_CLASSES = 40
"""Rows of the class table; beyond, those that changed most."""


class PlannedGroup(Protocol):
    """What the report reads of a group."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def units(self) -> int: ...  # noqa: D102
    @property
    def keep(self) -> Sequence[int]: ...  # noqa: D102


class Plan(Protocol):
    """What the report reads of a plan."""

    @property
    def groups(self) -> Sequence[PlannedGroup]: ...  # noqa: D102


def render(
    run: Mapping[str, Any],
    evidence: Evidence,
    plan: Plan | None = None,
    *,
    show_names: bool = False,
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> str:
    """Write the report as one self-contained HTML page.

    Parameters
    ----------
    run
        What is in ``run.json``; "history" (steps as dicts) gives the trajectory.
    evidence
        With pictures (see `Evidence.load_samples`), or without: then no heatmaps are shown.
    plan
        What every layer keeps; None leaves that section out.
    show_names
        Show file names and whole paths. They can name a patient, so they stay out by default.
    names
        File name of each image of the split, by position.

    Returns
    -------
    str
        HTML, without scripts and without anything to load.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        percent=words.percent,
        points=words.points,
        number=words.number,
        whole=words.whole,
        ms=words.milliseconds,
        estimate=findings.estimate,
        change=findings.change,
        multilabel=evidence.task == "multilabel",
    )
    metric = "macro ROC AUC" if evidence.task == "multilabel" else "balanced accuracy"
    searched = run.get("curve")
    if searched:
        metric = curve.metric_name(searched["metric"], evidence.classes)
    history = [step for step in run.get("history") or [] if isinstance(step, Mapping)]
    name_of = findings.namer(names if show_names else None)
    pictured = [sample for sample in evidence.samples if sample.image is not None]
    return environment.get_template("report.html.j2").render(
        e=evidence,
        style=Markup((Path(__file__).parent / "templates" / "style.css").read_text("utf-8")),
        headline=words.headline(evidence),
        verdict=words.verdict(evidence),
        tiles=words.tiles(evidence),
        loss=words.loss_sentence(evidence),
        classes=_class_rows(evidence),
        shown=[evidence.classes.index(row.name) for row in _class_rows(evidence)],
        outcomes=findings.OUTCOMES,
        checks=findings.checks(evidence),
        changed_cards=findings.changed_cards(evidence, name_of),
        reliability=reliability.curves(evidence.calibration, evidence.classes)
        if evidence.calibration
        else [],
        history=history,
        metric=metric,
        trajectories=[charts.trajectory(history, width, metric) for width in (340, 720)]
        if len(history) > 1 and not searched
        else [],
        search=searched,
        tuned=run.get("finetuning"),
        curves=[curve.picture(searched, evidence.classes, width) for width in (340, 720)]
        if searched
        else [],
        reasons=[
            (
                each,
                [likeness.boxes(each, width) for width in (340, 720)],
                likeness.headings_of(each),
                likeness.rows_of(each),
                likeness.by_class(each, evidence.classes),
            )
            for each in (evidence.reasons or {}).values()
        ],
        retrained=any(
            yardstick["kind"] == "training"
            for each in (evidence.reasons or {}).values()
            for yardstick in each["yardsticks"]
        ),
        robustness=corrupted.multiples(evidence.robustness) if evidence.robustness else [],
        groups=list(plan.groups) if plan is not None else [],
        cards=[_card(s, evidence, name_of(s.index)) for s in pictured],
        unsure=any(
            batch["speedup_q25"] is not None
            and batch["speedup_q75"] is not None
            and batch["speedup_q25"] <= 1 <= batch["speedup_q75"]
            for batch in (evidence.speed["batches"] if evidence.speed else ())
        ),
        facts=provenance.provenance(run, show_names=show_names),
        settings=provenance.settings(run, show_names=show_names),
        version=__version__,
        colours={"for": heatmaps.FOR, "against": heatmaps.AGAINST},
    )


@dataclass(frozen=True)
class _ClassRow:
    name: str
    support: int
    before: float | None
    after: float | None

    @property
    def change(self) -> float:
        return 0.0 if self.before is None or self.after is None else self.after - self.before


def _class_rows(evidence: Evidence) -> list[_ClassRow]:
    before, after = evidence.performance["original"], evidence.performance["model"]
    rows = [
        _ClassRow(name, support, before["recall"][k] if before else None, recall)
        for k, (name, recall, support) in enumerate(
            zip(evidence.classes, after["recall"], after["support"], strict=True)
        )
    ]
    if len(rows) > MOST_CLASSES:
        kept = set(sorted(rows, key=lambda row: -abs(row.change))[:MOST_CLASSES])
        rows = [row for row in rows if row in kept]
    return rows


@dataclass(frozen=True)
class _Card:
    title: str
    true: str
    explained: str
    sample: Sample
    pictures: list[tuple[str, str, str, str]]
    """Heading, decision, data URI, alternative text."""
    change: tuple[str, str] | None
    """Style and words for a decision that changed."""
    small: bool


def _card(sample: Sample, evidence: Evidence, title: str) -> _Card:
    target = evidence.classes[sample.target]
    assert sample.image is not None
    image = heatmaps.shrunk(sample.image)
    pictures = [("Image", "", heatmaps.as_png(image), f"{title} as the network sees it")]
    for heading, relevance, decided, score in (
        ("Original", sample.before, sample.before_classes, sample.before_score),
        (
            "Pruned" if evidence.cost["original"] else "Network",
            sample.after,
            sample.after_classes,
            sample.after_score,
        ),
    ):
        if relevance is None or decided is None:
            continue
        pictures.append(
            (
                heading,
                f"{_listed(decided, evidence)} {words.percent(score, 0)}",
                heatmaps.as_png(heatmaps.overlay(image, heatmaps.shrunk(relevance))),
                f"Heatmap of the {heading.lower()} network for {target} on {title}",
            )
        )
    return _Card(
        title=title,
        true=_listed(sample.true, evidence),
        explained=target,
        sample=sample,
        pictures=pictures,
        change=_change(sample),
        small=max(image.shape[:2]) < 96,
    )


def _change(sample: Sample) -> tuple[str, str] | None:
    if not sample.changed:
        return None
    kind = "otherwise"
    if sample.before_classes == sample.true:
        kind = "lost"
    elif sample.after_classes == sample.true:
        kind = "gained"
    return kind, findings.KINDS[kind]


def _listed(classes: Sequence[int], evidence: Evidence) -> str:
    return ", ".join(evidence.classes[k] for k in classes) or "none"
