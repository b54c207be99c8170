"""Figures with their intervals, checks and changed decisions, in the words of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from debride.evidence.evidence import Evidence
from debride.evidence.intervals import Estimate
from debride.evidence.verdict import Check, more_decimals
from debride.report import heatmaps, words

OUTCOMES = {"pass": "Pass", "warn": "Warning", "fail": "Fail"}


def estimate(found: Estimate | None) -> str:
    """Write a share with its interval.

    Examples
    --------
    >>> estimate({"value": 0.931, "low": 0.9, "high": 0.95})
    '93.1\u202f% (90.0–95.0)'
    >>> estimate(None)
    '–'
    """
    if found is None:
        return "–"
    low, high = (f"{100 * found[key]:.1f}" for key in ("low", "high"))
    return f"{words.percent(found['value'])} ({low}–{high})"


def change(found: Estimate | None) -> str:
    """Write a change of a share in points, with its interval.

    Examples
    --------
    >>> change({"value": -0.012, "low": -0.03, "high": 0.01})
    '−1.2 (−3.0 to +1.0)'
    """
    if found is None:
        return "–"
    value, low, high = (words.points(found[key], 0.0) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class CheckRow:
    """One check of the verdict, written out."""

    name: str
    title: str
    outcome: str
    style: str
    value: str
    interval: str
    limits: str


def checks(evidence: Evidence) -> list[CheckRow]:
    """Write the checks of a verdict, those that came off worst first."""
    found = [] if evidence.verdict is None else evidence.verdict["checks"]
    order = list(OUTCOMES)[::-1]
    return [_row(check) for check in sorted(found, key=lambda c: order.index(c["outcome"]))]


def counted(evidence: Evidence) -> str:
    """Say how many checks came off how."""
    found = [] if evidence.verdict is None else evidence.verdict["checks"]
    said = []
    for outcome, verb in (("fail", "fail"), ("warn", "warn"), ("pass", "pass")):
        count = sum(check["outcome"] == outcome for check in found)
        if count:
            ending = ("es" if verb == "pass" else "s") if count == 1 else ""
            said.append(f"{count} {verb}{ending}")
    noun = "check" if len(found) == 1 else "checks"
    return f"Of {len(found)} {noun}, {', '.join(said)}." if said else ""


def _row(check: Check) -> CheckRow:
    unit = check["unit"]

    def written(value: float, more: int = 0) -> str:
        if unit == "number":
            return words.number(value, 2 + more)
        figure = words.percent if unit == "percent" else _points
        return figure(value, 1 + more)

    interval = ""
    if check["low"] is not None and check["high"] is not None:
        interval = f"{written(check['low'])} to {written(check['high'])}"
    title = check["title"][:1].upper() + check["title"][1:]
    return CheckRow(
        name=check["name"],
        # where nothing was lost, nothing came off worst
        title=f"{title}: {check['of']}" if check["of"] and check["value"] > 0 else title,
        outcome=OUTCOMES[check["outcome"]],
        style=check["outcome"],
        value=written(check["value"], more_decimals(check))
        + (f"{words.NARROW}points" if unit == "points" else ""),
        interval=interval,
        limits=f"{written(check['warn'])}, {written(check['fail'])}",
    )


def _points(value: float, decimals: int) -> str:
    return words.number(100 * value, decimals)


@dataclass(frozen=True)
class ChangedCard:
    """One changed decision with its picture."""

    title: str
    true: str
    before: str
    after: str
    kind: tuple[str, str]
    uri: str | None


KINDS = {
    "lost": "was right, now wrong",
    "gained": "was wrong, now right",
    "otherwise": "wrong in another way",
}


def changed_cards(evidence: Evidence, name_of: Callable[[int], str]) -> list[ChangedCard]:
    """Write the listed changed decisions.

    Parameters
    ----------
    evidence
        With thumbnails, or without: then there are no pictures.
    name_of
        What an image of the split is called, by position.
    """
    shown = [] if evidence.changed is None else evidence.changed["shown"]
    pictures = [heatmaps.as_png(each) for each in evidence.thumbnails]
    return [
        ChangedCard(
            title=name_of(image["index"]),
            true=_listed(image["true"], evidence.classes),
            before=f"{_listed(image['before'], evidence.classes)} "
            f"{words.percent(image['before_score'], 0)}",
            after=f"{_listed(image['after'], evidence.classes)} "
            f"{words.percent(image['after_score'], 0)}",
            kind=(image["kind"], KINDS[image["kind"]]),
            uri=pictures[place] if place < len(pictures) else None,
        )
        for place, image in enumerate(shown)
    ]


def namer(names: Sequence[str] | Mapping[int, str] | None) -> Callable[[int], str]:
    """Give what images are called: by name where names are given and known, else by position.

    Examples
    --------
    >>> namer(None)(3), namer({3: "a.png"})(3), namer({})(3)
    ('Image 3', 'a.png', 'Image 3')
    """

    def name_of(index: int) -> str:
        if names is None:
            return f"Image {index}"
        known = index in names if isinstance(names, Mapping) else index < len(names)
        return names[index] if known else f"Image {index}"

    return name_of


def _listed(classes: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(names[k] for k in classes) or "none"
