"""`plan`: from scores and a budget to what every group keeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from debride.criteria.scores import Scores
from debride.errors import DebrideError
from debride.planning.budgets import CostModel, cost_model
from debride.planning.costs import Costs, measure
from debride.planning.groups import find_groups
from debride.planning.layers import width
from debride.planning.plan import Group, Plan, PlannedGroup, fingerprint, weights_hash
from debride.planning.ranking import check_normalisation, importances

TOLERANCE = 0.01
"""A budget is met when the cost is within this fraction of the original total."""

MOST_EXCHANGED = 24
"""Networks of more groups have units fine enough; trying all their pairs would take long."""

RANKINGS = {"global": "share_width_rank", "layer": "rank"}
"""Which normalisation each scope of ranking uses unless one is named."""


def plan(
    model: nn.Module,
    scores: Scores,
    example: Tensor,
    *,
    macs: float | None = None,
    params: float | None = None,
    ratio: float | None = None,
    ranking: str = "global",
    normalise: str | None = None,
    floor: float = 0.05,
    groups: Sequence[Group] | None = None,
) -> Plan:
    """Decide what every group keeps, in one shot.

    Parameters
    ----------
    model : nn.Module
        The network that was scored.
    scores : Scores
    example : Tensor
        (B, C, *spatial), one image is enough.
    macs, params : float, optional
        Fraction of the multiply-accumulates or parameters to keep; 0.5 where nothing is given.
    ratio : float, optional
        Fraction of the units to remove.
    ranking : str
        ``"global"`` compares units across the network, ``"layer"`` cuts every layer alike.
    normalise : str, optional
        How scores become comparable; see `debride.planning.ranking`.
    floor : float
        Fraction of its units that every group keeps at least (and at least one).
    groups : sequence of Group, optional
        Found by tracing the network where absent.

    Raises
    ------
    DebrideError
        When the budget cannot be met within 0.01 of the original total.
    """
    kind, kept = read_budget(macs=macs, params=params, ratio=ratio)
    example = example[:1]
    if groups is None:
        groups = find_groups(model, example).groups
    whole = [group.planned(range(group.units)) for group in groups]
    cost = cost_model(kind, model, groups, example)
    for layer in {tap.layer for group in groups for tap in group.taps}:
        wide = width(model.get_submodule(layer), "out")
        if len(scores.values.get(layer, ())) != wide:
            raise DebrideError(
                f"the scores do not fit layer '{layer}', which has {wide} units: score this network"
            )
    chosen = cut_to_budget(
        whole, scores.values, cost, kept, ranking=ranking, normalise=normalise, floor=floor
    )
    made_by = {"criterion": scores.criterion, "images": scores.count, kind: kept if kind != "ratio"
               else 1 - kept, "ranking": ranking, "floor": floor}  # fmt: skip
    return finish(model, chosen, example, made_by)


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


def check_ranking(ranking: str, normalise: str | None) -> None:
    """Raise unless the scope of the ranking and its normalisation are known."""
    if ranking not in RANKINGS:
        raise DebrideError(f"no ranking '{ranking}': known: {', '.join(RANKINGS)}")
    check_normalisation(normalise or RANKINGS[ranking])


def check_reachable(groups: Sequence[Group], cost: CostModel, kept: float, floor: float) -> None:
    """Raise unless the cost can come down to `kept` with every group at its floor."""
    total = cost(np.zeros(len(groups)))
    lowest = cost(np.array([g.units - _least(g, floor) for g in groups], dtype=np.float64)) / total
    if lowest > kept + _allowed(kept):
        raise DebrideError(
            f"the budget cannot be met: a share of {kept:.3g} is to be kept, and with every group "
            f"at its floor {math.ceil(lowest * 1000) / 1000:.3f} is left; ask to keep that, or "
            "lower the floor (--floor)"
        )


def _allowed(kept: float, tolerance: float = TOLERANCE) -> float:
    """Give how far from a budget is near enough: a tiny one is not met by twice as much."""
    return tolerance if tolerance > TOLERANCE else min(tolerance, kept / 2)


def _least(group: Group, floor: float) -> int:
    return min(group.units, max(1, math.ceil(floor * group.units)))


def cut_to_budget(
    groups: Sequence[PlannedGroup],
    scores: Mapping[str, Tensor],
    cost: CostModel,
    kept: float,
    *,
    ranking: str = "global",
    normalise: str | None = None,
    floor: float = 0.05,
    tolerance: float = TOLERANCE,
) -> tuple[PlannedGroup, ...]:
    """Remove the least important units until the cost is `kept` of the original.

    Parameters
    ----------
    groups : sequence of PlannedGroup
        What is kept so far.
    scores : mapping of str to Tensor
        For each producing layer, its present units' scores.
    cost : CostModel
        Of the original network.
    kept : float
        Fraction of the original cost to reach.
    tolerance : float
        How far from it, as a fraction of the original, is still no error.
    """
    check_ranking(ranking, normalise)
    check_reachable(groups, cost, kept, floor)
    values = importances(groups, scores, normalise or RANKINGS[ranking])
    columns: list[int] = []
    units: list[int] = []
    weights: list[float] = []
    for column, group in enumerate(groups):
        least = _least(group, floor)
        order = values[group.name].argsort()
        for place in order[: max(0, len(order) - least)].tolist():
            columns.append(column)
            units.append(group.keep[place])
            weights.append(float(values[group.name][place]))
    queue = np.argsort(np.array(weights), kind="stable")
    removed = np.array([group.units - len(group.keep) for group in groups], dtype=np.float64)
    total = cost(np.zeros(len(groups)))
    taken = _take(
        queue, np.array(columns, dtype=np.int64), removed, cost, kept * total, total, tolerance
    )
    gone: dict[int, set[int]] = {}
    for position in taken:
        gone.setdefault(columns[position], set()).add(units[position])
    return tuple(
        group.planned([unit for unit in group.keep if unit not in gone.get(column, ())])
        for column, group in enumerate(groups)
    )


def _take(
    queue: np.ndarray[Any, Any],
    columns: np.ndarray[Any, Any],
    removed: np.ndarray[Any, Any],
    cost: CostModel,
    target: float,
    total: float,
    tolerance: float,
) -> list[int]:
    """Return the units to remove: the head of the queue, then smaller ones that still fit."""

    def cost_of(positions: Sequence[int] | np.ndarray[Any, Any]) -> float:
        counts = np.bincount(columns[positions], minlength=len(removed)) if len(positions) else 0
        return cost(removed + counts)

    low, high = 0, len(queue)
    while low < high:  # the shortest head whose cost is at or under the target
        middle = (low + high) // 2
        if cost_of(queue[:middle]) <= target:
            high = middle
        else:
            low = middle + 1
    reached = cost_of(queue[:low])
    if low == 0 or target - reached <= TOLERANCE * total / 2:
        return [int(p) for p in queue[:low]]
    # The last unit overshoots: leave it, and fill up with later ones that cost less.
    best = [int(p) for p in queue[: low - 1]]
    for position in queue[low:]:
        gap = cost_of(best) - target
        if gap <= TOLERANCE * total / 4:
            break
        if cost_of([*best, int(position)]) >= target - TOLERANCE * total / 4:
            best.append(int(position))
    best = min([int(p) for p in queue[:low]], best, key=lambda taken: abs(cost_of(taken) - target))
    if abs(cost_of(best) - target) > TOLERANCE * total:
        best = _exchange(best, queue, columns, cost_of, target)
    nearest = cost_of(best)
    tolerance = _allowed(target / total, tolerance)
    if abs(nearest - target) > tolerance * total:
        raise DebrideError(
            f"the budget of {target / total:.3g} cannot be met within {tolerance:.3g}: units are "
            f"coarse, the nearest is {nearest / total:.3f}"
        )
    return best


def _exchange(
    taken: list[int],
    queue: np.ndarray[Any, Any],
    columns: np.ndarray[Any, Any],
    cost_of: Callable[[Sequence[int]], float],
    target: float,
) -> list[int]:
    """Give and take a few units between two groups where one unit more or less is too coarse."""
    groups = {int(c): [int(p) for p in queue if columns[p] == c] for c in np.unique(columns)}
    if len(groups) > MOST_EXCHANGED:
        return taken
    counts = {c: sum(int(columns[p]) == c for p in taken) for c in groups}
    best, gap = taken, abs(cost_of(taken) - target)
    for one, other in itertools.combinations_with_replacement(groups, 2):
        for more, less in itertools.product(range(-3, 4), repeat=2):
            changed = dict(counts)
            changed[one] += more
            changed[other] += less
            if any(not 0 <= changed[c] <= len(groups[c]) for c in (one, other)):
                continue
            candidate = [p for c, count in changed.items() for p in groups[c][:count]]
            if abs(cost_of(candidate) - target) < gap:
                best, gap = candidate, abs(cost_of(candidate) - target)
    return best


def check_members(model: nn.Module, plan: Plan, example: Tensor) -> None:
    """Raise unless the plan's groups couple the layers that this network couples.

    A plan from which a member is gone would cut one layer and not the layer that reads it.

    Parameters
    ----------
    model : nn.Module
        The network before any cut; left as it is.
    plan : Plan
    example : Tensor
        (B, C, *spatial); the first image is used.

    Raises
    ------
    DebrideError
        Naming the first group, and what it lacks or has too much of.
    """
    known = {group.name: group for group in find_groups(model, example).groups}
    way_out = "take the plan as debride prune wrote it, and change only what groups keep"
    for group in plan.groups:
        if group.name not in known:
            raise DebrideError(f"the plan's group '{group.name}' is none of the network: {way_out}")
        own = known[group.name]
        lacks = [member for member in own.members if member not in group.members]
        extra = [member for member in group.members if member not in own.members]
        for what, members in (("lacks", lacks), ("has too much:", extra)):
            if members:
                raise DebrideError(
                    f"the plan's group '{group.name}' {what} '{members[0].module}' "
                    f"({members[0].side}put side): {way_out}"
                )
        if group.units != own.units:
            raise DebrideError(
                f"the plan's group '{group.name}' has {group.units} units, in the network "
                f"{own.units}: {way_out}"
            )


def finish(
    model: nn.Module,
    groups: Sequence[PlannedGroup],
    example: Tensor,
    made_by: Mapping[str, Any],
) -> Plan:
    """Make a `Plan` of chosen units, with what the network will cost."""
    before = measure(model, example)
    removed = np.array([len(group.removed) for group in groups], dtype=np.float64)
    after = Costs(
        *(
            round(cost_model(kind, model, groups, example)(removed))
            for kind in ("macs", "params", "bytes")
        )
    )
    made_by = {**made_by, "weights": weights_hash(model)}
    return Plan(tuple(groups), fingerprint(model), before, after, made_by)
