"""Which units go so that a budget is met: the least important first, in portions that may go."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.planning.budgets import Cost
from debride.planning.limits import Limits
from debride.planning.plan import Group, PlannedGroup
from debride.planning.ranking import importances

NONE = Limits(floor=0.0)
"""Down to one unit a group."""

TOLERANCE = 0.01
"""A budget is met when the cost is within this fraction of the original total."""

MOST_TRIED = 200_000
"""Exchanges that are tried where units are coarse; one takes some ten microseconds."""

Cut = tuple[PlannedGroup, ...]
Counts = npt.NDArray[np.int64]


def check_reachable(
    groups: Sequence[Group], cost: Cost, kept: float, limits: Limits = NONE, *, ratio: bool = False
) -> None:
    """Raise unless the cost can come down to `kept` with every group at its least.

    A `ratio` is spoken of as what is removed.
    """
    lowest = lowest_share(groups, cost, limits)
    if lowest <= kept + _allowed(kept):
        return
    held = lowest > 1.01 * lowest_share(groups, cost)
    loosen = "loosen what holds it (--floor, --round-to, --protect)"
    if lowest > 1 - TOLERANCE / 2:
        raise DebrideError(
            "the budget cannot be met: nothing can go, as every group is at its floor; "
            + (loosen if held else "debride inspect says what is left alone, and why")
        )
    least = math.ceil(round(lowest * 1000, 6)) / 1000
    nearest = f"for a ratio of {1 - least:.3f}" if ratio else "to keep that"
    fewest = min(groups, key=lambda group: group.units)
    why = f"or {loosen}" if held else f"of the {fewest.units} units of '{fewest.name}' one stays"
    raise DebrideError(
        f"the budget cannot be met: a share of {kept:.3g} is to be kept, and with every group "
        f"at its floor {least:.3f} is left; ask {nearest}, {why}"
    )


def lowest_share(groups: Sequence[Group], cost: Cost, limits: Limits = NONE) -> float:
    """Return the share of the cost that is left with every group at its least."""
    most = np.array([group.units - limits.least(group) for group in groups], dtype=np.float64)
    return cost(most) / cost(np.zeros(len(groups)))


def _allowed(kept: float, tolerance: float = TOLERANCE) -> float:
    """Give how far from a budget is near enough: a tiny one is not met by twice as much."""
    return tolerance if tolerance > TOLERANCE else min(tolerance, kept / 2)


def cut_to_budget(
    groups: Sequence[PlannedGroup],
    scores: Mapping[str, Tensor],
    cost: Cost,
    kept: float,
    *,
    sets: Sequence[Hashable],
    normalise: str,
    limits: Limits = NONE,
    tolerance: float = TOLERANCE,
) -> Cut:
    """Remove the least important units until the cost is `kept` of the original.

    Parameters
    ----------
    groups : sequence of PlannedGroup
        What is kept so far.
    scores : mapping of str to Tensor
        For each producing layer, its present units' scores.
    cost : callable
        Of the original network, as `debride.planning.budgets.cost_model` gives.
    kept : float
        Fraction of the original cost to reach.
    sets : sequence of hashable
        One for each group: units of groups with equal entries are ranked among themselves, and
        every set is cut from its lower end alike.
    normalise : str
        How units of one set become comparable.
    limits : Limits
    tolerance : float
        How far from `kept`, as a fraction of the original, is still no error.

    Raises
    ------
    DebrideError
        When the budget cannot be met, with the nearest that can.
    """
    check_reachable(groups, cost, kept, limits)
    lines, queue = _line_up(groups, importances(groups, scores, normalise), sets, limits)
    removed = np.array([group.units - len(group.keep) for group in groups], dtype=np.float64)
    total = cost(np.zeros(len(groups)))
    ends = [np.cumsum([0, *map(len, line)]) for line in lines]

    def cost_of(taken: Counts) -> float:
        gone = [end[int(count)] for end, count in zip(ends, taken, strict=True)]
        return cost(removed + np.array(gone, dtype=np.float64)) / total

    taken = _take(queue, [len(line) for line in lines], cost_of, kept)
    nearest = cost_of(taken)
    tolerance = _allowed(kept, tolerance)
    if abs(nearest - kept) > tolerance:
        raise DebrideError(
            f"the budget of {kept:.3g} cannot be met within {tolerance:.3g}: units are "
            f"coarse, the nearest is {nearest:.3f}"
        )
    cut = []
    for group, line, count in zip(groups, lines, taken, strict=True):
        gone = {unit for portion in line[: int(count)] for unit in portion}
        cut.append(group.planned([unit for unit in group.keep if unit not in gone]))
    return tuple(cut)


def _line_up(
    groups: Sequence[PlannedGroup],
    values: Mapping[str, Tensor],
    sets: Sequence[Hashable],
    limits: Limits,
) -> tuple[list[list[list[int]]], npt.NDArray[np.int64]]:
    """Give each group's portions in the order they go, and the groups' turns to lose one."""
    places = _places(groups, values, sets)
    lines: list[list[list[int]]] = []
    columns: list[int] = []
    weights: list[float] = []
    for column, group in enumerate(groups):
        place = places[column]
        order = np.argsort(place, kind="stable")
        line: list[list[int]] = []
        begin = 0
        for size in limits.portions(group, len(group.keep)):
            chosen = order[begin : begin + size]
            line.append([group.keep[int(p)] for p in chosen])
            columns.append(column)
            weights.append(float(place[chosen].mean()))
            begin += size
        lines.append(line)
    return lines, np.array(columns, dtype=np.int64)[np.argsort(np.array(weights), kind="stable")]


def _places(
    groups: Sequence[PlannedGroup], values: Mapping[str, Tensor], sets: Sequence[Hashable]
) -> list[npt.NDArray[np.float64]]:
    """Give each unit's place within its set, from 0 to 1."""
    places: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(groups)
    for key in dict.fromkeys(sets):
        columns = [column for column, other in enumerate(sets) if other == key]
        joined = torch.cat([values[groups[column].name] for column in columns]).numpy()
        ranked = np.empty(len(joined))
        ranked[np.argsort(joined, kind="stable")] = (np.arange(len(joined)) + 0.5) / len(joined)
        begin = 0
        for column in columns:
            end = begin + len(groups[column].keep)
            places[column] = ranked[begin:end]
            begin = end
    return places


def _take(
    queue: npt.NDArray[np.int64],
    longest: Sequence[int],
    cost_of: Callable[[Counts], float],
    target: float,
) -> Counts:
    """Return how many portions each group loses: the head of the queue, then what still fits."""

    def head(length: int) -> Counts:
        return np.bincount(queue[:length], minlength=len(longest)).astype(np.int64)

    low, high = 0, len(queue)
    while low < high:  # the shortest head whose cost is at or under the target
        middle = (low + high) // 2
        if cost_of(head(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    reached = cost_of(head(low))
    if low == 0 or target - reached <= TOLERANCE / 2:
        return head(low)
    # The last portion overshoots: leave it, and fill up with later ones that cost less.
    filled = head(low - 1)
    passed: set[int] = set()  # a group's portions go in order
    for column in queue[low - 1 :].tolist():
        if cost_of(filled) - target <= TOLERANCE / 4:
            break
        more = filled.copy()
        more[column] += 1
        if column not in passed and cost_of(more) >= target - TOLERANCE / 4:
            filled = more
        else:
            passed.add(column)
    best = min(head(low), filled, key=lambda taken: abs(cost_of(taken) - target))
    if abs(cost_of(best) - target) > TOLERANCE:
        best = _exchange(best, longest, cost_of, target)
    return best


def _exchange(
    taken: Counts, longest: Sequence[int], cost_of: Callable[[Counts], float], target: float
) -> Counts:
    """Give and take a few portions between two groups where one more or less is too coarse."""
    best, gap = taken, abs(cost_of(taken) - target)
    changes = sorted(itertools.product(range(-3, 4), repeat=2), key=lambda two: sum(map(abs, two)))
    pairs = itertools.combinations_with_replacement(range(len(longest)), 2)
    for (more, less), (one, other) in itertools.islice(
        itertools.product(changes, tuple(pairs)), MOST_TRIED
    ):
        changed = taken.copy()
        changed[one] += more
        changed[other] += less
        if any(not 0 <= changed[column] <= longest[column] for column in (one, other)):
            continue
        if (off := abs(cost_of(changed) - target)) < gap:
            best, gap = changed, off
            if gap <= TOLERANCE / 4:
                break
    return best
