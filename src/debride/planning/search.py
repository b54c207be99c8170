"""Where to cut next: down to a budget, or as far as a floor allows. Decisions without networks."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from debride.errors import DebrideError

RESOLUTION = 0.02
"""A search ends when the last good and the first bad point are so near, in shares of the MACs."""

MOST_HALVINGS = 4
"""Points tried between the last good and the first bad one, at most."""


@dataclass(frozen=True)
class StepRecord:
    """One visited point of pruning; step 0 is the original.

    Attributes
    ----------
    macs_kept, params_kept, units_kept : float
        Fractions of the original.
    before_recovery, after_recovery : float
        The validation metric: balanced accuracy, or macro ROC AUC if multi-label, or the one that
        a search was given.
    normalise : str or None
        How scores were made comparable across layers in this step.
    start : int or None
        The step whose network was cut.
    drop_bound : float or None
        In a search: what the drop of the metric does not exceed, with its confidence.
    drift : float or None
        In a search: 1 − mean rank correlation of heatmaps with the original's.
    good : bool
        Whether what a search demands holds here.
    """

    step: int
    macs_kept: float
    params_kept: float
    units_kept: float
    before_recovery: float
    after_recovery: float
    normalise: str | None = None
    start: int | None = None
    drop_bound: float | None = None
    drift: float | None = None
    good: bool = True


@dataclass(frozen=True)
class Move:
    """Which network is cut next, and down to what share of the original."""

    start: int
    target: float
    strict: bool
    """Whether the share must be met; near is good enough on the way."""


@dataclass(frozen=True)
class Descent:
    """Down to a budget by way of others.

    Attributes
    ----------
    targets : tuple of float
        What each step keeps of the original.
    strict : frozenset of int
        The steps whose share must be met; on the way, near is good enough.

    Examples
    --------
    >>> Descent.to(0.25, steps=2).targets
    (0.5, 0.25)
    """

    targets: tuple[float, ...]
    strict: frozenset[int]

    @classmethod
    def to(cls, kept: float, steps: int) -> Descent:
        """Make steps of the same part of what is left; the last one must meet its share."""
        shares = (kept ** (step / steps) for step in range(1, steps + 1))
        return cls(tuple(shares), frozenset({steps}))

    @classmethod
    def through(cls, budgets: Sequence[float]) -> Descent:
        """Make a step for each budget, all to be met."""
        return cls(tuple(budgets), frozenset(range(1, len(budgets) + 1)))

    def next(self, points: Sequence[StepRecord]) -> Move | None:
        """Return the next cut, or None where the last budget is reached."""
        step = len(points)
        if step > len(self.targets):
            return None
        return Move(step - 1, self.targets[step - 1], step in self.strict)

    def chosen(self, points: Sequence[StepRecord]) -> StepRecord:
        """Return the end of the way."""
        return points[-1]


@dataclass(frozen=True)
class Search:
    """Down until a floor is broken, then halving between the last good and the first bad point.

    Attributes
    ----------
    lowest : float
        Share of the MACs that is left with every group at its floor.
    factor : float
        What every step keeps of what is left.

    Examples
    --------
    >>> Search(lowest=0.1, factor=0.8).next([StepRecord(0, 1.0, 1.0, 1.0, 0.9, 0.9)])
    Move(start=0, target=0.8, strict=False)
    """

    lowest: float
    factor: float

    def next(self, points: Sequence[StepRecord]) -> Move | None:
        """Return the next cut, or None where the search is at its end."""
        last = self.chosen(points)
        bad = [point for point in points if not point.good and point.macs_kept < last.macs_kept]
        if not bad:
            target = max(last.macs_kept * self.factor, self.lowest)
            idle = last.start is not None and points[last.start].macs_kept <= last.macs_kept
            if idle or last.macs_kept - target < RESOLUTION / 10:
                return None
            return Move(last.step, target, strict=False)
        first_bad = max(point.macs_kept for point in bad)
        first_failure = next(point.step for point in points if not point.good)
        if last.macs_kept - first_bad <= RESOLUTION or len(points) - first_failure > MOST_HALVINGS:
            return None
        return Move(last.step, math.sqrt(last.macs_kept * first_bad), strict=False)

    def chosen(self, points: Sequence[StepRecord]) -> StepRecord:
        """Return the smallest network among the good ones."""
        good = (point for point in points if point.good)
        return min(good, key=lambda point: (point.macs_kept, -point.step))


@dataclass(frozen=True)
class Floor:
    """What a search demands of a network.

    Attributes
    ----------
    max_drop, max_drift : float or None
        Of the validation metric, in its own unit; of the heatmaps, 1 − mean rank correlation.
    confidence : float
        Of the bound on the drop.
    """

    max_drop: float | None
    max_drift: float | None
    confidence: float

    def holds(self, drop_bound: float, drift: float) -> bool:
        """Tell whether a network is good."""
        kept = self.max_drop is None or drop_bound <= self.max_drop
        return kept and (self.max_drift is None or drift <= self.max_drift)

    def refusal(self, points: Sequence[StepRecord], metric: str, images: int) -> str:
        """Say that no visited network holds the floor, and how near the largest came."""
        if len(points) < 2:
            return "nothing can be cut: every group is at its floor already (--floor, --round-to)"
        nearest = max(points[1:], key=lambda point: point.macs_kept)
        found = []
        if self.max_drop is not None:
            found.append(
                f"{metric} may be down by {nearest.drop_bound:.4f} (allowed: {self.max_drop}, at "
                f"confidence {self.confidence} with {images} validation images)"
            )
        if self.max_drift is not None:
            found.append(f"heatmaps drift by {nearest.drift:.3f} (allowed: {self.max_drift})")
        return (
            f"no cut keeps the floor: with {nearest.macs_kept:.1%} of the MACs left "
            f"{' and '.join(found)}; allow more, lower --confidence, or give more validation images"
        )


def read_floor(
    max_drop: float | None,
    max_drift: float | None,
    metric: str | None,
    confidence: float,
    budgets: Mapping[str, float | None],
) -> Floor | None:
    """Return what a search demands, or None where there is none.

    Raises
    ------
    DebrideError
        For numbers out of range, or a floor together with a budget.
    """
    if max_drop is None and max_drift is None:
        if metric is not None:
            raise DebrideError(f"the metric '{metric}' is for a search: give max_drop too")
        return None
    if given := [name for name, value in budgets.items() if value is not None]:
        raise DebrideError(f"give a budget ({given[0]}) or a floor (max_drop, max_drift), not both")
    for name, value in (("max_drop", max_drop), ("max_drift", max_drift)):
        if value is not None and not 0 <= value <= 1:
            raise DebrideError(f"{name}={value}: give a number from 0 to 1, such as 0.01")
    if not 0.5 <= confidence < 1:
        raise DebrideError(f"confidence={confidence}: give a number from 0.5 to under 1")
    return Floor(max_drop, max_drift, confidence)


@dataclass(frozen=True)
class Curve:
    """All points that a search visited, and which it chose.

    Attributes
    ----------
    points : tuple of StepRecord
        In the order of the visits; the first is the original.
    chosen : int
        The step of the network that was taken.
    metric : str
        What `floor.max_drop` speaks of.
    floor : Floor
    seconds : mapping
        ``"evaluation"`` (one, of the original on the validation images), ``"attribution"``
        (scores and heatmaps) and ``"search"`` (all the rest); on the CPU as this process computed.
    """

    points: tuple[StepRecord, ...]
    chosen: int
    metric: str
    floor: Floor
    seconds: Mapping[str, float]

    @property
    def evaluations(self) -> float:
        """Time of the search without attributions, in evaluations of the original."""
        return self.seconds["search"] / self.seconds["evaluation"]

    def at(self, macs: float) -> StepRecord:
        """Return the largest visited network of at most this share of the MACs.

        Raises
        ------
        DebrideError
            Where none is so small.
        """
        return nearest_under(self.points, macs)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**asdict(self), "evaluations": self.evaluations}

    def to_csv(self) -> str:
        """Write one line a point, from the largest to the smallest."""
        text = io.StringIO()
        names = [field.name for field in fields(StepRecord)]
        table = csv.DictWriter(text, [*names, "chosen"], lineterminator="\n")
        table.writeheader()
        for point in sorted(self.points, key=lambda point: -point.macs_kept):
            table.writerow({**asdict(point), "chosen": point.step == self.chosen})
        return text.getvalue()


def nearest_under(points: Sequence[StepRecord], macs: float) -> StepRecord:
    """Return the largest visited network of at most a share of the MACs.

    Raises
    ------
    DebrideError
        Where none is so small.
    """
    cut = [point for point in points if point.step > 0]
    under = [point for point in cut if point.macs_kept <= macs + 5e-4]  # 0.3 as it is printed
    if not under:
        least = min((point.macs_kept for point in cut), default=1.0)
        raise DebrideError(
            f"no visited network keeps {macs:.3g} of the MACs or less: the smallest keeps "
            f"{least:.3f}"
        )
    # of two alike, the one that was better
    return max(under, key=lambda point: (point.macs_kept, point.after_recovery))
