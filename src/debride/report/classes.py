"""How well the task is done, as a whole and class by class, in rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from debride.evidence.evidence import Evidence
from debride.evidence.intervals import Compared

MOST_CLASSES = 40
"""Rows of the class table; beyond, those that changed most."""
EPSILON = 0.0005
"""A change that is written as ±0.0."""


@dataclass(frozen=True)
class Row:
    """One figure before and after, with intervals where they were measured."""

    name: str
    before: float | None
    after: float | None
    support: int | None = None
    interval: Compared | None = None

    @property
    def change(self) -> float:
        """Of the figure; 0 where there is none to compare with."""
        return 0.0 if self.before is None or self.after is None else self.after - self.before

    @property
    def style(self) -> str:
        """Whether it is worse (down) or better (up) than before."""
        return "down" if self.change < -EPSILON else "up" if self.change > EPSILON else ""


def rows(evidence: Evidence) -> list[Row]:
    """Give the recall of each class, or of those that changed most."""
    before, after = evidence.performance["original"], evidence.performance["model"]
    found = evidence.statistics
    made = [
        Row(
            name,
            before["recall"][k] if before else None,
            after["recall"][k],
            after["support"][k],
            found["classes"][k]["recall"] if found else None,
        )
        for k, name in enumerate(evidence.classes)
    ]
    if len(made) <= MOST_CLASSES:
        return made
    kept = sorted(range(len(made)), key=lambda k: -abs(made[k].change))[:MOST_CLASSES]
    return [made[k] for k in sorted(kept)]


def overall(evidence: Evidence) -> list[Row]:
    """Give the figures of the whole split."""
    before, after = evidence.performance["original"], evidence.performance["model"]
    found = evidence.statistics
    return [
        Row(
            "Balanced accuracy",
            before["balanced_accuracy"] if before else None,
            after["balanced_accuracy"],
            interval=found["balanced_accuracy"] if found else None,
        ),
        Row(
            "Accuracy",
            before["accuracy"] if before else None,
            after["accuracy"],
            interval=found["accuracy"] if found else None,
        ),
        Row(
            "ROC AUC, mean of classes",
            before["roc_auc"] if before else None,
            after["roc_auc"],
            interval=found["auc"] if found else None,
        ),
    ]
