"""The model card: the findings of a run in Markdown, to be read and compared as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from debride.evidence.evidence import Evidence
from debride.report import classes, environment, findings, provenance, words
from debride.report import reasons as likeness
from debride.report.render import render
from debride.report.sections import Plan, Subject

REPORT, CARD = "report.html", "card.md"


def pages(
    run: Mapping[str, Any],
    evidence: Evidence,
    plan: Plan | None = None,
    *,
    show_names: bool = False,
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> dict[str, str]:
    """Give the files that say what was found, by name: the report and the model card.

    Takes what `render` takes.
    """
    return {
        REPORT: render(run, evidence, plan, show_names=show_names, names=names),
        CARD: card(run, evidence, plan, show_names=show_names, names=names),
    }


def card(
    run: Mapping[str, Any],
    evidence: Evidence,
    plan: Plan | None = None,
    *,
    show_names: bool = False,
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> str:
    """Write the findings as Markdown: what `render` shows, in tables instead of pictures.

    Takes what `render` takes.

    Returns
    -------
    str
        Markdown with pipe tables.
    """
    name_of = findings.namer(names if show_names else None)
    subject = Subject(run, evidence, plan, name_of, show_names)
    found = run.get("finetuning")
    return (
        environment.markdown()
        .get_template("card.md.j2")
        .render(
            e=evidence,
            both=evidence.performance["original"] is not None,
            headline=words.headline(evidence),
            verdict=words.verdict(evidence),
            counted=findings.counted(evidence),
            checks=findings.checks(evidence),
            history=[step for step in run.get("history") or [] if isinstance(step, Mapping)],
            tuned=words.tuned(found, subject.metric) if found else "",
            groups=[] if plan is None else list(plan.groups),
            rows=classes.rows(evidence),
            overall=classes.overall(evidence),
            loss=words.loss_sentence(evidence),
            changed=findings.changed_cards(evidence, name_of),
            reasons=[
                (each, likeness.headings_of(each), likeness.rows_of(each))
                for each in (evidence.reasons or {}).values()
            ],
            masses=words.class_masses(evidence),
            facts=provenance.provenance(run, show_names=show_names),
            settings=provenance.settings(run, show_names=show_names),
        )
    )
