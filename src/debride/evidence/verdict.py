"""Pass, warn or fail: what the evidence says, held against limits that stand in the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from typing_extensions import TypedDict

from debride.errors import DebrideError
from debride.evidence.intervals import Compared, Estimate
from debride.evidence.reasons import LEAST
from debride.relevance import method_title

if TYPE_CHECKING:
    from debride.evidence.evidence import Evidence

Outcome = Literal["pass", "warn", "fail"]
OUTCOMES: tuple[Outcome, ...] = ("pass", "warn", "fail")
"""The better first."""
Limit = tuple[float, float]
"""Warn above the first, fail above the second."""


@dataclass(frozen=True)
class Limits:
    """How much harm warns and how much fails, check by check.

    Every figure is harm: 0 for an unpruned copy, larger for worse. All are shares (0.02 is two
    points) but for `explanations`, which is a difference of figures between 0 and 1.

    Attributes
    ----------
    balanced_accuracy
        Balanced accuracy lost.
    worst_class
        Recall lost, each class for itself.
    auc
        Mean ROC AUC lost.
    calibration
        Expected calibration error gained.
    subgroups
        Balanced accuracy that the network's worst subgroup is behind its best, beyond what it
        was behind in the original.
    decisions
        Share of the images that are decided differently.
    explanations
        1 − mean rank correlation of the heatmaps before and after.
    yardstick
        Share of the images whose heatmap moved further than all but 5 % did under the yardstick.
    class_reasons
        The same in each class for itself.
    localisation
        Share lost of the relevance that lay inside the lesion's mask, over all images and in
        each class for itself: 0.4 if 10 % of it lay there and 6 % do.
    robustness
        Balanced accuracy lost under a corruption beyond what is lost on the same clean images.

    Examples
    --------
    >>> Limits(auc=(0.005, 0.01)).auc
    (0.005, 0.01)
    """

    balanced_accuracy: Limit = (0.02, 0.05)
    worst_class: Limit = (0.10, 0.20)
    auc: Limit = (0.01, 0.03)
    calibration: Limit = (0.03, 0.08)
    subgroups: Limit = (0.06, 0.12)
    decisions: Limit = (0.10, 0.25)
    explanations: Limit = (0.30, 0.60)
    yardstick: Limit = (0.10, 0.50)
    class_reasons: Limit = (0.50, 0.90)
    localisation: Limit = (0.20, 0.40)
    robustness: Limit = (0.05, 0.15)


@dataclass(frozen=True)
class Harm:
    """How much worse one thing is, with its interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None
    of: str = ""
    """Which class or subgroup it is, where a check looks at several."""


class Check(TypedDict):
    """One check; of several things that it looks at, the one that came off worst."""

    name: str
    title: str
    unit: Unit
    of: str
    outcome: Outcome
    value: float
    low: float | None
    high: float | None
    warn: float
    fail: float


class Verdict(TypedDict):
    """The worst outcome of all checks, and the checks."""

    outcome: Outcome
    checks: list[Check]
    unmeasured: list[str]
    """Checks for which nothing was measured."""


ALSO = 3
"""Further classes, columns or methods that a check names, at most."""

Measured = Callable[["Evidence"], list[Harm]]
Unit = Literal["points", "percent", "number"]
"""How the figure of a check is written: a difference of shares, a share, or a plain number."""
_CHECKS: dict[str, tuple[str, Unit, Measured]] = {}


def check(title: str, unit: Unit) -> Callable[[Measured], Measured]:
    """Register a check under the function's name, which is that of its `Limits`."""

    def register(function: Measured) -> Measured:
        _CHECKS[function.__name__] = title, unit, function
        return function

    return register


def judge(evidence: Evidence, limits: Limits | None = None) -> Verdict | None:
    """Hold evidence against limits.

    A check fails where the harm is above the limit to fail and the interval is above 0: it is
    large, and it is there. It warns where the harm is above the limit to warn, however wide the
    interval, or where the interval reaches above the limit to fail: too few images to rule it
    out. Without an interval the harm alone counts.

    Parameters
    ----------
    evidence
        Of a network beside its original.
    limits
        By default those of `Limits`.

    Returns
    -------
    Verdict or None
        None without an original: there is nothing to lose.
    """
    if evidence.performance["original"] is None:
        return None
    checks: list[Check] = []
    unmeasured = []
    for name, (title, unit, measured) in _CHECKS.items():
        warn, fail = getattr(limits or Limits(), name)
        harms = measured(evidence)
        if not harms:
            unmeasured.append(name)
            continue
        judged = [
            (OUTCOMES.index(_outcome(harm, (warn, fail))), harm.value, harm) for harm in harms
        ]
        place, _, worst = max(judged, key=lambda each: each[:2])
        same = sorted((each for each in judged if each[0] == place), key=lambda each: -each[1])
        also = [harm.of for _, _, harm in same if harm is not worst and place > 0][:ALSO]
        checks.append(
            Check(
                name=name,
                title=title,
                unit=unit,
                of=worst.of + (f" (also {', '.join(also)})" if also else ""),
                outcome=OUTCOMES[place],
                value=worst.value,
                low=worst.low,
                high=worst.high,
                warn=warn,
                fail=fail,
            )
        )
    outcome = max((OUTCOMES.index(each["outcome"]) for each in checks), default=0)
    return Verdict(outcome=OUTCOMES[outcome], checks=checks, unmeasured=unmeasured)


def original_guesses(evidence: Evidence) -> bool:
    """Say whether the original may be no better than chance on these images.

    Then there is little to lose, and that nothing was lost says little. Chance is a balanced
    accuracy of 1 / K for K classes, a mean ROC AUC of 0.5 for several labels; the original may
    be no better where its interval reaches down to it.
    """
    found = evidence.statistics
    if found is None:
        return False
    several = evidence.task == "multilabel"
    figure = found["auc" if several else "balanced_accuracy"]["original"]
    return figure is not None and figure["low"] <= (0.5 if several else 1 / len(evidence.classes))


def more_decimals(check: Check) -> int:
    """Give how many decimals a figure needs beyond the usual not to be written as a limit.

    Examples
    --------
    >>> check = {"value": 0.5004, "unit": "number", "warn": 0.5, "fail": 0.9}
    >>> more_decimals(check), more_decimals(check | {"value": 0.5})
    (2, 0)
    """
    usual = 2 if check["unit"] == "number" else 3
    near = [limit for limit in (check["warn"], check["fail"]) if limit != check["value"]]
    for more in range(3):
        written = round(check["value"], usual + more)
        if all(written != round(limit, usual + more) for limit in near):
            return more
    return 0


def _outcome(harm: Harm, limit: Limit) -> Outcome:
    warn, fail = limit
    if harm.value > fail and (harm.low is None or harm.low > 0):
        return "fail"
    if harm.value > warn or (harm.high is not None and harm.high > fail):
        return "warn"
    return "pass"


def read_limits(pairs: Mapping[str, str]) -> Limits:
    """Read limits from texts "WARN,FAIL".

    Raises
    ------
    DebrideError
        For an unknown check, or texts that are not two numbers in this order.

    Examples
    --------
    >>> read_limits({"auc": "0.005,0.01"}).auc
    (0.005, 0.01)
    """
    known = [field.name for field in dataclasses.fields(Limits)]
    read: dict[str, Limit] = {}
    for name, text in pairs.items():
        if name not in known:
            raise DebrideError(f"no check '{name}' to limit: there are {', '.join(known)}")
        try:
            warn, fail = (float(part) for part in text.split(","))
        except ValueError:
            raise DebrideError(
                f"the limit {name}={text} is not WARN,FAIL, as in {name}=0.02,0.05"
            ) from None
        if not 0 <= warn <= fail:
            raise DebrideError(
                f"the limit {name}={text} must be two numbers from 0 up, the one to warn first"
            )
        read[name] = (warn, fail)
    return Limits(**read)


@check("balanced accuracy lost", "points")
def balanced_accuracy(evidence: Evidence) -> list[Harm]:
    """Balanced accuracy lost."""
    found = evidence.statistics
    return [] if found is None else _lost(found["balanced_accuracy"])


@check("recall lost, worst class", "points")
def worst_class(evidence: Evidence) -> list[Harm]:
    """Recall lost, class by class."""
    found = evidence.statistics
    if found is None:
        return []
    return [
        harm
        for name, figures in zip(evidence.classes, found["classes"], strict=True)
        for harm in _lost(figures["recall"], name)
    ]


@check("ROC AUC lost", "points")
def auc(evidence: Evidence) -> list[Harm]:
    """Mean ROC AUC lost."""
    found = evidence.statistics
    return [] if found is None else _lost(found["auc"])


@check("calibration error gained", "points")
def calibration(evidence: Evidence) -> list[Harm]:
    """Expected calibration error gained."""
    found = evidence.calibration
    return [] if found is None else _gained(found["ece"]["change"])


@check("subgroup gap gained", "points")
def subgroups(evidence: Evidence) -> list[Harm]:
    """How much further the worst subgroup is behind the best, column by column."""
    found = evidence.subgroups
    return [
        harm
        for column in ([] if found is None else found["columns"])
        if (gap := column["gap"]) is not None
        for harm in _gained(
            gap["difference"]["change"],
            f"{column['column']}: {gap['worse']} behind {gap['better']}",
        )
    ]


@check("decisions changed", "percent")
def decisions(evidence: Evidence) -> list[Harm]:
    """Share of the images that are decided differently."""
    found = evidence.changed
    return [] if found is None else _gained(found["share"])


@check("heatmaps moved", "number")
def explanations(evidence: Evidence) -> list[Harm]:
    """How far heatmaps moved."""
    found = evidence.explanations
    return [] if found is None else [Harm(1 - found["spearman"]["mean"])]


@check("heatmaps moved further than under noise", "percent")
def yardstick(evidence: Evidence) -> list[Harm]:
    """Share of the images whose heatmap moved beyond the yardstick, method by method.

    The yardstick is the last: a second training where there is one, else the stronger noise.
    """
    return [
        Harm(share, of=method_title(method))
        for method, found in (evidence.reasons or {}).items()
        if found["yardsticks"]
        and (share := found["yardsticks"][-1]["beyond"]["spearman"]) is not None
    ]


@check("heatmaps of a class moved further than under noise", "percent")
def class_reasons(evidence: Evidence) -> list[Harm]:
    """The share beyond the same yardstick in each class of 10 images, method by method."""
    return [
        Harm(share, of=f"{evidence.classes[k]}, {method_title(method)}")
        for method, found in (evidence.reasons or {}).items()
        if found["yardsticks"]
        for k, share in enumerate(found["yardsticks"][-1].get("classes", {}).get("spearman", []))
        if share is not None
    ]


@check("relevance that left the lesion", "percent")
def localisation(evidence: Evidence) -> list[Harm]:
    """Share of the lesion's relevance that left it, over all images and class by class.

    A share, as small lesions hold little of the relevance to begin with.
    """
    found = evidence.localisation
    if found is None:
        return []
    harms = _left(found["mass"], "all images")
    for name, of_class in zip(evidence.classes, found.get("classes", []), strict=False):
        if of_class is not None and of_class["images"] >= LEAST:
            harms += _left(of_class["mass"], name)
    return harms


@check("accuracy lost under corruptions, beyond that on clean images", "points")
def robustness(evidence: Evidence) -> list[Harm]:
    """How much more is lost under a corruption than without it, on the mean of its severities."""
    found = evidence.robustness
    if found is None or (clean := found["clean_original"]) is None:
        return []
    lost = clean - found["clean_model"]
    harms = []
    for name, curves in found["corruptions"].items():
        if curves["original"] is not None:
            before, after = (
                np.mean(curve["balanced_accuracy"])
                for curve in (curves["original"], curves["model"])
            )
            harms.append(Harm(float(before - after) - lost, of=name))
    return harms


def _lost(figure: Compared, of: str = "") -> list[Harm]:
    change = figure["change"]
    if change is None:
        return []
    # 0.0 − x, as −0.0 is not a number to show
    return [Harm(0.0 - change["value"], 0.0 - change["high"], 0.0 - change["low"], of)]


def _left(figure: Compared, of: str = "") -> list[Harm]:
    """Give what was lost as a share of the original's mean."""
    whole = figure["original"]
    if whole is None or whole["value"] == 0:
        return []
    return [
        Harm(lost.value / whole["value"], lost.low / whole["value"], lost.high / whole["value"], of)
        for lost in _lost(figure)
        if lost.low is not None and lost.high is not None
    ]


def _gained(change: Estimate | None, of: str = "") -> list[Harm]:
    return [] if change is None else [Harm(change["value"], change["low"], change["high"], of)]
