"""What every group keeps whatever the budget: floors, widths that suit hardware, protection."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from debride.errors import DebrideError
from debride.planning.plan import Group


@dataclass(frozen=True)
class Limits:
    """How far down a group may be cut, and in what portions.

    Attributes
    ----------
    floor : float
        Fraction of its units that every group keeps at least (and at least one).
    round_to : int
        Widths that are kept are multiples of this; a group that is not cut keeps its own.
    protected : frozenset of str
        Names of groups that are not cut.

    Examples
    --------
    >>> group = Group("conv", "channel", 20, (), ())
    >>> Limits(floor=0.3, round_to=4).least(group)
    8
    >>> list(Limits(floor=0.3, round_to=4).portions(group, 18))
    [2, 4, 4]
    """

    floor: float = 0.05
    round_to: int = 1
    protected: frozenset[str] = frozenset()

    def least(self, group: Group) -> int:
        """Return how many units a group keeps at least."""
        if group.name in self.protected:
            return group.units
        portion = self._portion(group)
        least = math.ceil(max(1, math.ceil(self.floor * group.units)) / portion) * portion
        return min(group.units, least)

    def portions(self, group: Group, present: int) -> Iterator[int]:
        """Give how many units go together, cut after cut, from `present` units to the least."""
        portion, least = self._portion(group), self.least(group)
        while present > least:
            smaller = max(least, (present - 1) // portion * portion)
            yield present - smaller
            present = smaller

    def _portion(self, group: Group) -> int:
        """Return the fewest units whose positions fill whole multiples of `round_to`."""
        blocks = [len(group.shown(tap, [0])[0]) for tap in group.taps]
        return math.lcm(*(self.round_to // math.gcd(self.round_to, b) for b in blocks or [1]))


def limits_of(
    model: nn.Module,
    groups: Sequence[Group],
    *,
    floor: float = 0.05,
    round_to: int = 1,
    protect: Sequence[str] = (),
) -> Limits:
    """Check limits and find the groups that are protected.

    Parameters
    ----------
    model : nn.Module
        The network before any cut.
    groups : sequence of Group
    floor, round_to
        See `Limits`.
    protect : sequence of str
        Names or patterns (``layer4.*``) of modules whose outputs stay whole, and all modules
        inside of these; with them go the layers that must be cut alike.

    Raises
    ------
    DebrideError
        For a pattern that is no module's name, limits out of range, or nothing left to cut.
    """
    if not 0 <= floor <= 1:
        raise DebrideError(f"floor={floor} is not a fraction: give one from 0 to 1")
    if round_to < 1:
        raise DebrideError(f"round_to={round_to}: give 1 or more, such as 8")
    names = [name for name, _ in model.named_modules() if name]
    for pattern in protect:
        if not any(_inside(name, pattern) for name in names):
            raise DebrideError(
                f"no layer is named '{pattern}': protect one of those that debride inspect lists, "
                f"such as '{groups[0].name if groups else names[-1]}'"
            )
    protected = frozenset(
        group.name
        for group in groups
        for member in group.members
        if member.side == "out" and any(_inside(member.module, each) for each in protect)
    )
    if groups and len(protected) == len(groups):
        raise DebrideError("every group of units is protected: nothing is left to cut")
    return Limits(floor, round_to, protected)


def _inside(name: str, pattern: str) -> bool:
    """Tell whether a pattern names a module or one that it stands in."""
    parts = name.split(".")
    return any(
        fnmatch.fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts))
    )
