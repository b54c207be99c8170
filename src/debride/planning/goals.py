"""A budget as it was asked for: what it counts, how much stays, and how a cut meets it."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from debride.errors import DebrideError
from debride.planning import fitting
from debride.planning.budgets import Cost, cost_model
from debride.planning.fitting import Cut, cut_to_budget, lowest_share
from debride.planning.latency import Clock, predicted, table_cost
from debride.planning.limits import Limits
from debride.planning.plan import Group, PlannedGroup


@dataclass(frozen=True)
class Goal:
    """A budget for one network.

    Attributes
    ----------
    kind : str
        ``"macs"``, ``"params"``, ``"bytes"``, ``"latency"`` or ``"ratio"``.
    kept : float
        Fraction of the original to keep.
    cost : callable
        What steers the cut.
    clock : Clock or None
        What measures it, where a prediction is not enough.
    """

    kind: str
    kept: float
    cost: Cost
    clock: Clock | None = None

    def check(self, groups: Sequence[Group], limits: Limits) -> None:
        """Raise unless it can be met with every group at its least, as far as can be predicted."""
        if self.clock is None:
            ratio = self.kind == "ratio"
            fitting.check_reachable(groups, self.cost, self.kept, limits, ratio=ratio)

    def cut(
        self,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        scores: Mapping[str, Tensor],
        target: float,
        *,
        sets: Sequence[Hashable],
        normalise: str,
        limits: Limits,
        strict: bool = True,
    ) -> Cut:
        """Remove the least important units until `target` of the original is left.

        Parameters
        ----------
        model : nn.Module
            Cut down to `groups`; untouched.
        groups, scores, sets, normalise, limits
            See `debride.planning.fitting.cut_to_budget`.
        target : float
        strict : bool
            Refuse what is not met within its tolerance; otherwise near is good enough.

        Raises
        ------
        DebrideError
            When it cannot be met, with the nearest that can.
        """
        exact = strict and self.clock is None

        def at(share: float) -> Cut:
            return cut_to_budget(
                groups, scores, self.cost, share, sets=sets, normalise=normalise, limits=limits,
                tolerance=fitting.TOLERANCE if exact else 1.0,
            )  # fmt: skip

        if self.clock is None:
            return at(target)
        lowest = lowest_share(groups, self.cost, limits)
        return self.clock.fit(model, groups, at, target, lowest=lowest, strict=strict)


def goal_of(
    kind: str,
    kept: float,
    model: nn.Module,
    groups: Sequence[Group],
    example: Tensor,
    *,
    latency_table: str | Path | None = None,
) -> Goal:
    """Make a budget countable for one network.

    Raises
    ------
    DebrideError
        For an unknown kind, or a latency table that is none or comes without a latency.
    """
    if kind != "latency":
        if latency_table is not None:
            raise DebrideError("a latency table is of use with a latency alone: give one")
        return Goal(kind, kept, cost_model(kind, model, groups, example))
    if latency_table is not None:
        return Goal(kind, kept, table_cost(latency_table, model, groups))
    return Goal(kind, kept, predicted(model, groups, example), Clock(model, example))


def read_budget(**given: float | None) -> tuple[str, float]:
    """Return the kind of budget and the fraction kept; half of the MACs where none is given.

    Examples
    --------
    >>> read_budget(macs=None, ratio=0.3)
    ('ratio', 0.7)
    """
    named = {kind: value for kind, value in given.items() if value is not None} or {"macs": 0.5}
    if len(named) > 1:
        raise DebrideError(f"give one budget, not {' and '.join(sorted(named))}")
    ((kind, value),) = named.items()
    if not (0 <= value < 1 if kind == "ratio" else 0 < value <= 1):
        raise DebrideError(
            f"{kind}={value} is not a fraction: give the part that is "
            f"{'removed' if kind == 'ratio' else 'kept'}, such as 0.5"
        )
    return kind, round(1 - value, 12) if kind == "ratio" else value


def read_budgets(macs: Sequence[float], steps: int | None) -> tuple[float, ...]:
    """Return several budgets that are met one after the other.

    Raises
    ------
    DebrideError
        For none, shares that do not fall, or a number of steps, which would be that of budgets.

    Examples
    --------
    >>> read_budgets([0.9, 0.5], None)
    (0.9, 0.5)
    """
    given = tuple(float(share) for share in macs)
    falling = all(after < before for before, after in itertools.pairwise((1.0, *given)))
    if not given or not falling or given[-1] <= 0:
        said = ", ".join(f"{share:g}" for share in given) or "none"
        raise DebrideError(f"macs ({said}): give shares under 1 that fall, such as 0.9, 0.5, 0.1")
    if steps is not None:
        raise DebrideError("several budgets are a step each: leave steps out")
    return given
