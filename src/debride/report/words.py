"""Numbers and sentences as a reader wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from debride.evidence.evidence import Evidence
from debride.evidence.localisation import ClassMass
from debride.evidence.reasons import AGREE
from debride.evidence.task import Performance
from debride.evidence.verdict import original_guesses

NARROW = "\u202f"
"""Narrow no-break space: between thousands, and before units."""

_SHARES = (
    (0.10, "A tenth of"),
    (0.20, "A fifth of"),
    (0.25, "A quarter of"),
    (1 / 3, "A third of"),
    (0.50, "Half"),
    (2 / 3, "Two thirds of"),
    (0.75, "Three quarters of"),
)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as a percentage.

    Examples
    --------
    >>> percent(0.9431), percent(-0.05), percent(-0.0001), percent(None)
    ('94.3\u202f%', '−5.0\u202f%', '0.0\u202f%', '–')
    """
    return "–" if share is None else f"{share * 100:z.{digits}f}{NARROW}%".replace("-", "−")


def tuned(found: Mapping[str, Any], metric: str) -> str:
    """Say how a network was fine-tuned and what that brought.

    Examples
    --------
    >>> found = {"history": [{}], "epochs": 2, "kept": True, "best_epoch": 0}
    >>> tuned(found, "accuracy").split(". ")[1]
    'No epoch was better on the validation split: the network is as it was before.'
    """
    epochs = len(found["history"])
    rest = f" of at most {found['epochs']}" if epochs < found["epochs"] else ""
    if not found["kept"]:
        came = (
            "The result would have broken the floor of the search: the network is as it was before."
        )
    elif found["best_epoch"] == 0:
        came = "No epoch was better on the validation split: the network is as it was before."
    else:
        came = (
            f"Validation {metric} went from {percent(found['before'])} to "
            f"{percent(found['after'])}, in epoch {found['best_epoch']}, whose weights it has."
        )
    return (
        "The cut network learnt to say what the original says, from the training images, for "
        f"{epochs} {'epoch' if epochs == 1 else 'epochs'}{rest}. {came}"
    )


def points(after: float | None, before: float | None) -> str:
    """Write a difference of two shares in percentage points, signed.

    Examples
    --------
    >>> points(0.931, 0.943), points(0.5, 0.5)
    ('−1.2', '±0.0')
    """
    if after is None or before is None:
        return "–"
    rounded = round((after - before) * 100, 1)
    sign = "±" if rounded == 0 else "+" if rounded > 0 else "−"
    return f"{sign}{abs(rounded):.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """Write a plain number with a true minus sign.

    Examples
    --------
    >>> number(-0.456), number(None)
    ('−0.46', '–')
    """
    return "–" if value is None else f"{value:z.{digits}f}".replace("-", "−")


def whole(value: int) -> str:
    """Write an integer with narrow spaces between thousands.

    Examples
    --------
    >>> whole(11181642)
    '11\u202f181\u202f642'
    """
    return f"{value:,}".replace(",", NARROW)


def amounts(before: float | None, after: float, unit: str) -> tuple[str, str, str]:
    """Write two amounts with one prefix: (before, after, prefixed unit).

    Examples
    --------
    >>> amounts(1.82e9, 9.1e8, "MACs")
    ('1.82', '0.91', 'GMACs')
    >>> amounts(None, 11_200_000, "parameters")
    ('', '11.2', 'M\u202fparameters')
    """
    largest = after if before is None else max(before, after)
    power, prefix = next(
        ((p, s) for p, s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= p), (1.0, "")
    )
    # a bare prefix before a word is a quantity ("11 M parameters"), before a symbol a unit
    joined = f"{prefix}{NARROW}{unit}" if prefix and unit == "parameters" else f"{prefix}{unit}"
    return (
        "" if before is None else _short(before / power),
        _short(after / power),
        joined,
    )


def milliseconds(value: float) -> str:
    """Write a latency with three figures.

    Examples
    --------
    >>> milliseconds(3.14159), milliseconds(271.8)
    ('3.14', '272')
    """
    return _short(value)


def headline(evidence: Evidence) -> str:
    """Say in one line what was won and what it cost."""
    name, before, after = headline_metric(evidence)
    costs = evidence.cost["original"]
    if before is None or costs is None:
        return f"{percent(after)} {name} on the {evidence.split} split"
    work = share(evidence.cost["model"]["macs"] / max(costs["macs"], 1))
    difference = round((after - before) * 100, 1)
    if difference == 0:
        return f"{work}, the same {name}"
    measured = evidence.statistics and evidence.statistics["balanced_accuracy"]["change"]
    if difference > 0 and measured and name == "balanced accuracy" and measured["low"] <= 0:
        # a gain that chance explains is not announced as one
        low, high = (points(measured[end], 0.0) for end in ("low", "high"))
        return f"{work}, {name} {points(after, before)}\u00a0points ({low} to {high})"
    if difference > 0:
        return f"{work}, and {difference:.1f}\u00a0points more {name}"
    return f"{work} for {-difference:.1f}\u00a0points of {name}"


def verdict(evidence: Evidence) -> list[str]:
    """Say it in full: the work, the decisions, the reasons; one sentence each."""
    name, before, after = headline_metric(evidence)
    was, now = evidence.cost["original"], evidence.cost["model"]
    macs = amounts(was["macs"] if was else None, now["macs"], "MACs")
    params = amounts(was["params"] if was else None, now["params"], "parameters")
    images = f"{whole(evidence.images)} {_plural(evidence.images, 'image')}"
    if was is None or before is None:
        return [
            f"{macs[1]}\u00a0{macs[2]} an image, {params[1]}\u00a0{params[2]}.",
            f"Measured alone on the {evidence.split} split ({images}): there is no original "
            "to compare with.",
        ]
    kept = now["macs"] / max(was["macs"], 1)
    sentences = [
        f"Arithmetic for one image: {macs[0]} → {macs[1]}\u00a0{macs[2]} ({percent(kept)}); "
        f"{params[0]} → {params[1]}\u00a0{params[2]}.",
        f"{_capital(name)} on the {evidence.split} split ({images}): {percent(before)} → "
        f"{percent(after)} ({points(after, before)}\u00a0points).",
    ]
    if original_guesses(evidence):
        sentences.append(
            "The original may be no better than chance on these images: that little was lost "
            "says little."
        )
    likeness = evidence.explanations
    if likeness is None:
        return [*sentences, "Explanations were not compared."]
    mean = likeness["spearman"]["mean"]
    return [
        *sentences,
        f"{agreement(mean)}: mean rank correlation {number(mean)} over "
        f"{whole(likeness['images'])} {_plural(likeness['images'], 'image')}.",
    ]


def agreement(correlation: float) -> str:
    """Put a mean rank correlation of heatmaps into words.

    Examples
    --------
    >>> agreement(0.87), agreement(0.1)
    ('Explanations agree', 'Explanations differ')
    """
    if correlation >= AGREE:
        return "Explanations agree"
    return "Explanations agree in part" if correlation >= 0.4 else "Explanations differ"


def tiles(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Give the few numbers at the top: (what, now, before)."""
    was, now = evidence.cost["original"], evidence.cost["model"]
    rows = []
    for what, key, unit in (
        ("Arithmetic", "macs", "MACs"),
        ("Parameters", "params", ""),
        ("File", "bytes", "B"),
    ):
        old = was[key] if was else None  # type: ignore[literal-required]
        first, second, prefixed = amounts(old, now[key], unit)  # type: ignore[literal-required]
        unit_text = f"{NARROW}{prefixed}" if prefixed else ""
        before = f"of {first}{unit_text}: {percent(now[key] / old)}" if old else ""  # type: ignore[literal-required]
        rows.append((what, second + unit_text, before))
    name, before_score, score = headline_metric(evidence)
    change = f"from {percent(before_score)}" if before_score is not None else ""
    rows.append((_capital(name), percent(score), change))
    if (likeness := evidence.explanations) is not None:
        rows.append(
            (
                "Explanations alike",
                number(likeness["spearman"]["mean"]),
                f"mean rank correlation, {whole(likeness['images'])} images{_beside(evidence)}",
            )
        )
    return rows


def _beside(evidence: Evidence) -> str:
    """Say what slight noise in the image does to the original's own heatmaps."""
    found = next(iter((evidence.reasons or {}).values()), None)
    noise = found["yardsticks"][0] if found is not None and found["yardsticks"] else None
    spread = noise["likeness"]["quantiles"]["spearman"] if noise is not None else None
    if noise is None or spread is None or noise["kind"] != "noise":
        return ""
    return f"; slight noise alone: {number(spread['mean'])}"


def share(kept: float) -> str:
    """Name the fraction of the arithmetic that is left.

    Examples
    --------
    >>> share(0.503), share(0.43), share(1.0)
    ('Half the arithmetic', '57\u202f% less arithmetic', 'The same arithmetic')
    """
    if abs(kept - 1) < 0.005:
        return "The same arithmetic"
    for value, words in _SHARES:
        if abs(kept - value) <= 0.02 * max(value, 0.5):
            return f"{words} the arithmetic"
    if kept > 1:
        return f"{percent(kept - 1, 0)} more arithmetic"
    return f"{percent(1 - kept, 0)} less arithmetic"


def headline_metric(evidence: Evidence) -> tuple[str, float | None, float]:
    """Give name, original and present value of the number that the verdict speaks of.

    Balanced accuracy; for multi-label tasks macro ROC AUC, where there is one.
    """
    before, after = evidence.performance["original"], evidence.performance["model"]
    auc = after["roc_auc"]
    auc_before = before["roc_auc"] if before else None
    if evidence.task == "multilabel" and auc is not None:
        return "mean ROC AUC", auc_before, auc
    return "balanced accuracy", _balanced(before), after["balanced_accuracy"]


def class_masses(evidence: Evidence) -> list[tuple[str, ClassMass]]:
    """Give the relevance inside the masks of each class that has some."""
    found = evidence.localisation
    named = zip(evidence.classes, found.get("classes", []) if found else [], strict=False)
    return [(name, each) for name, each in named if each is not None]


def worst_classes(evidence: Evidence) -> Sequence[tuple[str, float, float, float, int]]:
    """Give (class, recall before, after, difference, images), the largest loss first."""
    before, after = evidence.performance["original"], evidence.performance["model"]
    if before is None:
        return []
    rows = [
        (name, first, second, second - first, images)
        for name, first, second, images in zip(
            evidence.classes, before["recall"], after["recall"], after["support"], strict=True
        )
        if first is not None and second is not None
    ]
    return sorted(rows, key=lambda row: row[3])


def loss_sentence(evidence: Evidence) -> str:
    """Say which class lost most, in recall and in images."""
    rows = worst_classes(evidence)
    if not rows:
        return ""
    name, first, second, difference, images = rows[0]
    missed = round(-difference * images)
    if missed <= 0:
        return f"No class is found less often than before, on the {evidence.split} split."
    return (
        f"Most was lost for {name}: {percent(first)} → {percent(second)} of its {whole(images)} "
        f"images are recognised ({points(second, first)}\u00a0points, {whole(missed)} "
        f"{_plural(missed, 'image')} fewer)."
    )


def _balanced(performance: Performance | None) -> float | None:
    return None if performance is None else performance["balanced_accuracy"]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plural(count: float, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _short(value: float) -> str:
    """Three figures, but never more than two decimals."""
    if value >= 99.95 or value == int(value):
        return whole(round(value))
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
