"""From labels to groups: units that run through the same layers in the same order."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from debride.models.attention import INPUT, Heads
from debride.planning.layers import AXIS
from debride.planning.plan import Group, Member, Side, Tap
from debride.planning.tracing import OUTPUT, Trace

_Place = tuple[str, Side]


@dataclass(frozen=True)
class LeftAlone:
    """Units that are not cut, and why."""

    name: str
    units: int
    reason: str


def coupled(trace: Trace) -> tuple[list[Group], list[LeftAlone]]:
    """Return the groups of channels and neurons that a trace found, and what is left alone."""
    units = _units(trace)
    families: dict[tuple[tuple[_Place, int], ...], list[dict[_Place, list[int]]]] = {}
    for unit in units:
        signature = tuple((place, len(positions)) for place, positions in unit.items())
        families.setdefault(signature, []).append(unit)
    groups, left = [], _left(trace)
    names: Counter[str] = Counter()
    for family in families.values():
        group = _group(trace, family, names)
        if isinstance(group, LeftAlone):
            left.append(group)
        elif group is not None:
            groups.append(group)
    return groups, left


def _units(trace: Trace) -> list[dict[_Place, list[int]]]:
    """Return, for each unit that may go, its positions on every side of every layer."""
    order = {name: number for number, name in enumerate(trace.modules)}

    def turn(place: _Place) -> tuple[bool, int, bool]:
        name, side = place
        no_layer = side == "stated" or side.startswith(AXIS)
        return no_layer, order.get(name, -1), side == "in"

    found: dict[int, dict[_Place, list[int]]] = {}
    for place in sorted(trace.sides, key=turn):
        for position, label in enumerate(trace.sides[place].tolist()):
            if trace.units.why_left(label) is None:
                root = trace.units.find(label)
                found.setdefault(root, {}).setdefault(place, []).append(position)
    return list(found.values())


def _group(
    trace: Trace, family: list[dict[_Place, list[int]]], names: Counter[str]
) -> Group | LeftAlone | None:
    """Make a group of units that run through the same sides of the same layers."""
    makers = [
        name
        for name, side in family[0]
        if side == "out" and isinstance(trace.modules[name], _ConvNd | nn.Linear)
    ]
    if not makers or not any(side == "in" for _, side in family[0]):
        return None  # nothing reads them
    # A layer is scored on one side: that behind attention where the heads come in.
    scored = [name for name in makers if name not in trace.heads_read_by]
    if not scored:
        return LeftAlone(makers[0], len(family), "attention alone makes these channels")
    family.sort(key=lambda unit: unit[makers[0], "out"])
    members: list[Member] = []
    for place in family[0]:
        regular = as_members(place, torch.tensor([unit[place] for unit in family]))
        if regular is None:
            return LeftAlone(
                makers[0], len(family), f"'{place[0]}' orders its channels irregularly"
            )
        members += regular
    names[makers[0]] += 1
    part = names[makers[0]]
    return Group(
        name=makers[0] if part == 1 else f"{makers[0]}#{part}",
        kind="neuron" if isinstance(trace.modules[makers[0]], nn.Linear) else "channel",
        units=len(family),
        members=tuple(members),
        taps=tuple(Tap(maker, trace.follows.get(maker, maker)) for maker in scored),
    )


def as_members(place: _Place, positions: Tensor) -> list[Member] | None:
    """Write (units, each) rising positions as members, or return None where they are irregular.

    Examples
    --------
    >>> as_members(("conv", "in"), torch.tensor([[4, 5], [6, 7]]))
    [Member(module='conv', side='in', offset=4, block=2, repeat=1, stride=0)]
    >>> as_members(("fc", "in"), torch.tensor([[0, 10], [1, 11]]))
    [Member(module='fc', side='in', offset=0, block=1, repeat=2, stride=10)]
    """
    units, each = positions.shape
    first = positions[0].tolist()
    steps = positions - positions[:1]
    block = int(steps[1, 0]) if units > 1 else _run(first)
    if block < 1 or each % block or bool((steps != torch.arange(units)[:, None] * block).any()):
        return None
    starts = first[::block]
    if first != [start + k for start in starts for k in range(block)]:
        return None
    strides = {after - before for before, after in itertools.pairwise(starts)}
    if len(starts) > 1 and len(strides) == 1:
        return [Member(*place, starts[0], block, len(starts), strides.pop())]
    return [Member(*place, start, block) for start in starts]


def _run(positions: Sequence[int]) -> int:
    """Return the length that a single unit's runs of neighbouring positions share, else 1."""
    length = 1
    while length < len(positions) and positions[length] == positions[0] + length:
        length += 1
    whole = len(positions) % length == 0
    return length if whole else 1


def _left(trace: Trace) -> list[LeftAlone]:
    """List the layers whose units are left alone; the classes are no units."""
    left = []
    for (name, side), labels in trace.sides.items():
        if side != "out" or not isinstance(trace.modules[name], _ConvNd | nn.Linear):
            continue
        reasons = Counter(trace.units.why_left(label) for label in labels.tolist())
        for reason in (None, "", OUTPUT):
            reasons.pop(reason, None)
        if reasons:
            reason, count = reasons.most_common(1)[0]
            left.append(LeftAlone(name, count, str(reason)))
    return left


def head_groups(name: str, heads: Heads) -> list[Group]:
    """Return an attention module's heads as a group, and the dimensions of each head as one."""

    def inner(layer: str) -> str:
        return f"{name}.{layer}" if layer else name

    output, size, count = inner(heads.output), heads.size, heads.count
    taps = (Tap(output, output + INPUT),)
    rows = [(inner(layer), offset) for layer, offset in heads.rows]
    whole = Group(
        name,
        "head",
        count,
        (
            Member(name, "heads"),
            *(Member(layer, "out", offset, size) for layer, offset in rows),
            *(Member(inner(layer), "out") for layer in heads.others),
            Member(output, "in", 0, size),
        ),
        taps,
    )
    if heads.whole or size == 1:
        return [whole]
    parts = Group(
        f"{name}.dims",
        "head_dim",
        size,
        (
            Member(name, "dims"),
            *(Member(layer, "out", offset, 1, count, size) for layer, offset in rows),
            Member(output, "in", 0, 1, count, size),
        ),
        taps,
    )
    return [whole, parts]
