"""Several runs on the same images, side by side on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from debride.errors import DebrideError
from debride.evidence.evidence import Evidence, Sample
from debride.evidence.intervals import Estimate
from debride.report import cards, environment, findings, heatmaps, scatter, words

PICTURES = 36
"""On one page, at most: it stays under 6 MB."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes
    ----------
    name
        What it is called on the page.
    run
        What is in its ``run.json``.
    evidence
        With pictures, or without.
    """

    name: str
    run: Mapping[str, Any]
    evidence: Evidence


@dataclass(frozen=True)
class Line:
    """One run in the table."""

    name: str
    how: str
    """What chose the units, and what mended the network."""
    outcome: str | None
    cells: list[str]


@dataclass(frozen=True)
class Beside:
    """One test image with the heatmaps of all runs."""

    title: str
    true: str
    explained: str
    pictures: list[cards.Picture]
    small: bool


def compare_runs(
    runs: Sequence[Run],
    *,
    show_names: bool = False,
    names: Sequence[str] | Mapping[int, str] | None = None,
) -> str:
    """Write a page that compares runs: costs, figures, verdicts, and the same images.

    Parameters
    ----------
    runs
        Two or more, of the same images and classes.
    show_names, names
        As for `debride.report.render`.

    Returns
    -------
    str
        HTML with nothing to load.

    Raises
    ------
    DebrideError
        When the runs are of different classes, splits or images.
    """
    _check(runs)
    name_of = findings.namer(names if show_names else None)
    first = runs[0].evidence
    metric = words.headline_metric(first)[0]
    verdicts = [each.evidence.verdict for each in runs]
    rows = {
        check["name"]: check["title"][:1].upper() + check["title"][1:]
        for verdict in verdicts
        if verdict is not None
        for check in verdict["checks"]
    }
    found = [{row.name: row for row in findings.checks(each.evidence)} for each in runs]
    return (
        environment.html()
        .get_template("comparison.html.j2")
        .render(
            runs=runs,
            e=first,
            metric=metric,
            lines=[_line(each) for each in runs],
            checks=[(title, [one.get(name) for one in found]) for name, title in rows.items()],
            drawings=[scatter.against_macs(_points(runs), width, metric) for width in (340, 720)],
            recalls=[
                (name, [each.evidence.performance["model"]["recall"][k] for each in runs])
                for k, name in enumerate(first.classes)
            ],
            originals=first.performance["original"],
            besides=_besides(runs, name_of),
        )
    )


def _check(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise DebrideError("there is one run: give two or more to compare")
    first = runs[0]
    for other in runs[1:]:
        if other.evidence.classes != first.evidence.classes:
            raise DebrideError(
                f"'{first.name}' decides between {', '.join(first.evidence.classes)}, "
                f"'{other.name}' between {', '.join(other.evidence.classes)}: "
                "compare runs of the same classes"
            )
        if other.evidence.split != first.evidence.split:
            raise DebrideError(
                f"'{first.name}' was measured on the {first.evidence.split} split, "
                f"'{other.name}' on the {other.evidence.split} split: compare runs of one split"
            )
        mine, theirs = _hash(first), _hash(other)
        if first.evidence.images != other.evidence.images or mine != theirs:
            raise DebrideError(
                f"'{first.name}' and '{other.name}' were measured on different images: "
                "compare runs of the same data, or measure them anew with debride evaluate"
            )


def _hash(run: Run) -> object:
    data = run.run.get("data")
    return data.get("sha256") if isinstance(data, Mapping) else None


def _line(run: Run) -> Line:
    evidence = run.evidence
    was, now = evidence.cost["original"], evidence.cost["model"]
    kept = [
        words.percent(now[key] / was[key] if was and was[key] else None)
        for key in ("macs", "params")
    ]
    amount, unit = words.amounts(None, now["bytes"], "B")[1:]
    given = run.run.get("settings")
    told = given if isinstance(given, Mapping) else {}
    moved = evidence.explanations
    changed = evidence.decisions
    estimates, change = _estimates(evidence)
    likeness = "–" if moved is None else words.number(moved["spearman"]["mean"])
    other = "–"
    if changed is not None:
        other = words.percent(1 - changed["same"] / max(evidence.images, 1))
    worst = words.worst_classes(evidence)
    lost = "–"
    if worst:
        name, before, after, *_ = worst[0]
        lost = words.points(after, before) + (f" {name}" if after < before else "")
    return Line(
        name=run.name,
        how=", ".join(str(told[key]) for key in ("criterion", "recovery") if told.get(key)),
        outcome=None if evidence.verdict is None else evidence.verdict["outcome"],
        cells=[*kept, f"{amount}{words.NARROW}{unit}", estimates, change, lost, other, likeness],
    )


def _estimates(evidence: Evidence) -> tuple[str, str]:
    """Write the headline's metric and its change, with intervals where there are any."""
    _, before, after = words.headline_metric(evidence)
    found = evidence.statistics
    if found is None:
        return words.percent(after), words.points(after, before)
    figure = found["auc" if evidence.task == "multilabel" else "balanced_accuracy"]
    if figure["model"] is None:
        return words.percent(after), words.points(after, before)
    return findings.estimate(figure["model"]), findings.change(figure["change"])


def _points(runs: Sequence[Run]) -> list[scatter.Point]:
    """Give the original, where there is one, and every run."""
    points = []
    first = runs[0].evidence
    _, before, _ = words.headline_metric(first)
    if before is not None:
        points.append(scatter.Point("original", 1.0, before, None, original=True))
    for each in runs:
        was, now = each.evidence.cost["original"], each.evidence.cost["model"]
        found = each.evidence.statistics
        interval: Estimate | None = None
        if found is not None:
            key = "auc" if each.evidence.task == "multilabel" else "balanced_accuracy"
            interval = found[key]["model"]  # type: ignore[literal-required]
        kept = now["macs"] / was["macs"] if was and was["macs"] else 1.0
        points.append(
            scatter.Point(each.name, kept, words.headline_metric(each.evidence)[2], interval)
        )
    return points


def _besides(runs: Sequence[Run], name_of: Callable[[int], str]) -> list[Beside]:
    """Show the images that two runs or more have heatmaps of, those of most runs first."""
    seen: dict[int, list[tuple[Run, Sample]]] = {}
    for each in runs:
        for sample in each.evidence.samples:
            if sample.image is not None and sample.after is not None:
                seen.setdefault(sample.index, []).append((each, sample))
    shared = sorted((index for index in seen if len(seen[index]) > 1), key=lambda i: -len(seen[i]))
    most = PICTURES // (len(runs) + 2)
    return [_beside(seen[index], name_of(index)) for index in shared[:most]]


def _beside(found: Sequence[tuple[Run, Sample]], title: str) -> Beside:
    run, first = found[0]
    assert first.image is not None
    image = heatmaps.shrunk(first.image)
    pictures = [
        cards.Picture("Image", "", heatmaps.as_png(image), f"{title} as the networks see it")
    ]
    if first.before is not None:
        pictures.append(cards.heatmap(first, run.evidence, "Original", title, before=True))
    pictures += [cards.heatmap(sample, each.evidence, each.name, title) for each, sample in found]
    return Beside(
        title=title,
        true=cards.listed(first.true, run.evidence),
        explained=run.evidence.classes[first.target],
        pictures=pictures,
        small=max(image.shape[:2]) < 96,
    )
