"""The sections of the report, in the order of what matters: one template and one function each.

A function gives what its template needs, or None where nothing was measured: then the section,
and its line in the contents, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from debride.evidence.evidence import Evidence
from debride.report import (
    cards,
    charts,
    classes,
    curve,
    findings,
    provenance,
    reliability,
    words,
)
from debride.report import reasons as likeness
from debride.report import robustness as corrupted

WIDTHS = (340, 720)
"""Of drawings, in pixels: for a phone, and for everything else."""

Values = Mapping[str, Any]


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


@dataclass(frozen=True)
class Subject:
    """What a report is about."""

    run: Mapping[str, Any]
    evidence: Evidence
    plan: Plan | None
    name_of: Callable[[int], str]
    """What an image of the split is called, by position."""
    show_names: bool

    @property
    def metric(self) -> str:
        """Name of the figure that was watched on the validation split."""
        searched = self.run.get("curve")
        if searched:
            return curve.metric_name(searched["metric"], self.evidence.classes)
        multilabel = self.evidence.task == "multilabel"
        return "macro ROC AUC" if multilabel else "balanced accuracy"


@dataclass(frozen=True)
class Section:
    """One section: the name of its template and its anchor, and its line in the contents."""

    name: str
    title: str
    values: Callable[[Subject], Values | None]


SECTIONS: list[Section] = []
Made = Callable[[Subject], "Values | None"]


def section(name: str, title: str) -> Callable[[Made], Made]:
    """Register what gives the values of a section; sections stand in the order of this file."""

    def register(function: Made) -> Made:
        SECTIONS.append(Section(name, title, function))
        return function

    return register


@section("verdict", "Verdict")
def _verdict(subject: Subject) -> Values | None:
    if subject.evidence.verdict is None:
        return None
    return {"checks": findings.checks(subject.evidence)}


@section("trajectory", "How it was pruned")
def _trajectory(subject: Subject) -> Values | None:
    history = [s for s in subject.run.get("history") or [] if isinstance(s, Mapping)]
    if len(history) < 2 or subject.run.get("curve"):
        return None
    return {
        "history": history,
        "metric": subject.metric,
        "trajectories": [charts.trajectory(history, width, subject.metric) for width in WIDTHS],
    }


@section("search", "What the search found")
def _search(subject: Subject) -> Values | None:
    searched = subject.run.get("curve")
    if not searched:
        return None
    draw = partial(curve.picture, searched, subject.evidence.classes)
    return {
        "search": searched,
        "metric": subject.metric,
        "curves": [draw(width) for width in WIDTHS],
    }


@section("tuning", "How it was fine-tuned")
def _tuning(subject: Subject) -> Values | None:
    tuned = subject.run.get("finetuning")
    if not tuned:
        return None
    said = words.tuned(tuned, subject.metric)
    return {"tuned": tuned, "metric": subject.metric, "said": said}


@section("plan", "What every layer keeps")
def _plan(subject: Subject) -> Values | None:
    groups = [] if subject.plan is None else list(subject.plan.groups)
    return {"groups": groups} if groups else None


@section("heatmaps", "Heatmaps")
def _heatmaps(subject: Subject) -> Values | None:
    evidence = subject.evidence
    pictured = [sample for sample in evidence.samples if sample.image is not None]
    if not pictured and (evidence.explanations is None or evidence.reasons is not None):
        return None
    drawn = [cards.card(s, evidence, subject.name_of(s.index)) for s in pictured]
    return {"cards": drawn, "outlined": any(card.outlined for card in drawn)}


@section("changed", "Decisions that changed")
def _changed(subject: Subject) -> Values | None:
    if subject.evidence.changed is None or not subject.evidence.changed["images"]:
        return None
    return {"changed_cards": findings.changed_cards(subject.evidence, subject.name_of)}


@section("classes", "Classes")
def _classes(subject: Subject) -> Values:
    evidence = subject.evidence
    rows = classes.rows(evidence)
    return {
        "rows": rows,
        "overall": classes.overall(evidence),
        "shown": [evidence.classes.index(row.name) for row in rows],
        "loss": words.loss_sentence(evidence),
    }


@section("subgroups", "Subgroups")
def _subgroups(subject: Subject) -> Values | None:
    return {} if subject.evidence.subgroups else None


@section("calibration", "Calibration")
def _calibration(subject: Subject) -> Values | None:
    found = subject.evidence.calibration
    if found is None:
        return None
    return {"reliability": reliability.curves(found, subject.evidence.classes)}


@section("reasons", "Likeness of the heatmaps")
def _reasons(subject: Subject) -> Values | None:
    found = list((subject.evidence.reasons or {}).values())
    if not found:
        return None
    return {
        "reasons": [
            (
                each,
                [likeness.boxes(each, width) for width in WIDTHS],
                likeness.headings_of(each),
                likeness.rows_of(each),
                likeness.by_class(each, subject.evidence.classes),
                likeness.name_of(each["yardsticks"][-1]),
            )
            for each in found
        ],
        "retrained": any(y["kind"] == "training" for each in found for y in each["yardsticks"]),
    }


@section("faithfulness", "Faithfulness")
def _faithfulness(subject: Subject) -> Values | None:
    found = [r for r in (subject.evidence.reasons or {}).values() if r["faithfulness"]]
    if not found:
        return None
    drawn = [(r, likeness.faithfulness(r)) for r in found]
    return {"faithful": drawn}


@section("localisation", "Heatmaps and lesions")
def _localisation(subject: Subject) -> Values | None:
    found = subject.evidence.localisation
    return None if found is None else {"masses": words.class_masses(subject.evidence)}


@section("robustness", "Changed images")
def _robustness(subject: Subject) -> Values | None:
    found = subject.evidence.robustness
    return None if found is None else {"robustness": corrupted.multiples(found)}


@section("speed", "Speed")
def _speed(subject: Subject) -> Values | None:
    found = subject.evidence.speed
    if found is None:
        return None
    unsure = any(
        batch["speedup_q25"] is not None
        and batch["speedup_q75"] is not None
        and batch["speedup_q25"] <= 1 <= batch["speedup_q75"]
        for batch in found["batches"]
    )
    return {"unsure": unsure}


@section("origin", "Where this comes from")
def _origin(subject: Subject) -> Values:
    run, show = subject.run, subject.show_names
    return {
        "facts": provenance.provenance(run, show_names=show),
        "settings": provenance.settings(run, show_names=show),
    }
