"""Evidence, run and plan in; one HTML file out, that needs nothing else to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from debride.evidence.evidence import Evidence
from debride.report import environment, findings, words
from debride.report.sections import SECTIONS, Plan, Subject


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
        HTML with nothing to load; all of it can be read without its script.
    """
    templates = environment.html()
    name_of = findings.namer(names if show_names else None)
    subject = Subject(run, evidence, plan, name_of, show_names)
    shared = {
        "e": evidence,
        "before": evidence.performance["original"],
        "after": evidence.performance["model"],
        "multilabel": evidence.task == "multilabel",
    }
    bodies = []
    for section in SECTIONS:
        values = section.values(subject)
        if values is not None:
            body = templates.get_template(f"{section.name}.html.j2").render({**shared, **values})
            bodies.append((section, Markup(body)))
    return templates.get_template("report.html.j2").render(
        shared,
        headline=words.headline(evidence),
        verdict=words.verdict(evidence),
        tiles=words.tiles(evidence),
        checks=findings.checks(evidence),
        counted=findings.counted(evidence),
        sections=bodies,
    )
