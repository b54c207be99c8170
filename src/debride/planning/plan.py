"""The plan: what every group of coupled units keeps. JSON that a person can read and edit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from debride.errors import DebrideError, hint
from debride.models.attention import INPUT
from debride.planning.costs import Costs
from debride.planning.layers import bare_parameters, width

SCHEMA_VERSION = 3
"""2 added attention and repeated members, 3 axes and stated; 1 and 2 are read as they are."""

MOST_UNITS = 1_000_000
"""No network has more; a plan that says so is damaged, and would fill the memory."""

Side = Literal["out", "in", "heads", "dims", "stated", "axis0", "axis1", "axis2", "axis3", "axis4"]
"""Of a layer its outputs or inputs; of an attention module its heads or the dimensions of each; of
a module whose code is told the width of what it moves, that; of a bare parameter a dimension."""

Kind = Literal["channel", "neuron", "head", "head_dim"]


@dataclass(frozen=True)
class Member:
    """One side of one module, or bare parameter, that a group's units run through.

    Unit u occupies the positions ``offset + r * stride + u * block + [0 … block)`` of that side,
    for r in ``[0 … repeat)``.
    """

    module: str
    side: Side
    offset: int = 0
    block: int = 1
    repeat: int = 1
    stride: int = 0

    @property
    def size(self) -> int:
        """How many positions one unit occupies."""
        return self.block * self.repeat

    def positions(self, units: Sequence[int]) -> list[int]:
        """Return the positions along this side that `units` occupy.

        Examples
        --------
        >>> Member("fc", "in", offset=10, block=2).positions([0, 3])
        [10, 11, 16, 17]
        >>> Member("qkv", "out", repeat=3, stride=8).positions([0, 2])
        [0, 8, 16, 2, 10, 18]
        """
        return [
            self.offset + r * self.stride + u * self.block + k
            for u in units
            for r in range(self.repeat)
            for k in range(self.block)
        ]

    def end(self, units: int) -> int:
        """Return the first position behind those of `units` units."""
        return self.offset + (self.repeat - 1) * self.stride + units * self.block


@dataclass(frozen=True)
class Tap:
    """A layer that shows a group's units, and where their relevance is read.

    That is the output of the layer that produces them or of the batch norm behind it. What heads
    give is read where the output projection takes it in: ``read_at`` is then ``layer@input``.
    """

    layer: str
    read_at: str

    @property
    def side(self) -> Side:
        """The side of the layer that the units lie on."""
        return "in" if self.read_at.endswith(INPUT) else "out"


@dataclass(frozen=True)
class Group:
    """Units that must go together: channels of coupled layers, or neurons of one MLP."""

    name: str
    kind: Kind
    units: int
    members: tuple[Member, ...]
    taps: tuple[Tap, ...]
    """The layers that produce these units, and where a unit's relevance is read."""

    def shown(self, tap: Tap, units: Sequence[int]) -> list[list[int]]:
        """Return, for each of `units`, its positions in the layer that a tap reads."""
        sources = [m for m in self.members if (m.module, m.side) == (tap.layer, tap.side)]
        return [[p for source in sources for p in source.positions([unit])] for unit in units]

    def planned(self, keep: Sequence[int]) -> PlannedGroup:
        """Return the group with the units that it keeps."""
        return PlannedGroup(
            self.name, self.kind, self.units, self.members, self.taps, tuple(sorted(keep))
        )


@dataclass(frozen=True)
class PlannedGroup(Group):
    """A group together with the units that it keeps (indices of the original network)."""

    keep: tuple[int, ...] = ()

    @property
    def removed(self) -> tuple[int, ...]:
        """The units that go."""
        kept = set(self.keep)
        return tuple(u for u in range(self.units) if u not in kept)


@dataclass(frozen=True)
class Plan:
    """What every group keeps; its indices always refer to the original network.

    Attributes
    ----------
    groups : tuple of PlannedGroup
    fingerprint : str
        Of the architecture that the plan was made for (names and shapes of its tensors).
    before, after : Costs
        Multiply-accumulates, parameters and bytes for one image, measured.
    made_by : mapping
        Criterion, budget and other choices that led here, for the reader; ``weights`` is the hash
        of the uncut network's tensors.
    """

    groups: tuple[PlannedGroup, ...]
    fingerprint: str
    before: Costs
    after: Costs
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def macs_kept(self) -> float:
        """Fraction of the multiply-accumulates that stays."""
        return self.after.macs / max(self.before.macs, 1)

    @property
    def params_kept(self) -> float:
        """Fraction of the parameters that stays."""
        return self.after.params / max(self.before.params, 1)

    @property
    def units_kept(self) -> float:
        """Fraction of the units that stays."""
        total = sum(group.units for group in self.groups)
        return sum(len(group.keep) for group in self.groups) / max(total, 1)

    def with_keep(self, keep: Mapping[str, Sequence[int]]) -> Plan:
        """Return the plan with other kept units for the groups named; costs stay as they are.

        Raises
        ------
        DebrideError
            For a group that the plan does not have, units that a group does not have, or none.
        """
        sizes = {group.name: group.units for group in self.groups}
        for name, units in keep.items():
            if name not in sizes:
                raise DebrideError(f"the plan has no group '{name}': {hint(name, list(sizes))}")
            if not units or len(set(units)) < len(units):
                raise DebrideError(f"group '{name}' must keep one unit at least, and each once")
            if min(units) < 0 or max(units) >= sizes[name]:
                raise DebrideError(f"group '{name}' has units 0 to {sizes[name] - 1}")
        return replace(
            self,
            groups=tuple(
                replace(group, keep=tuple(sorted(keep.get(group.name, group.keep))))
                for group in self.groups
            ),
        )

    def check(self, model: nn.Module) -> None:
        """Raise unless the plan fits the architecture of `model` (the original, uncut network).

        Raises
        ------
        DebrideError
            Naming the first thing that does not fit.
        """
        if (found := fingerprint(model)) != self.fingerprint:
            raise DebrideError(
                "the plan was made for another architecture (fingerprint "
                f"{self.fingerprint[:12]}, this network has {found[:12]}): "
                "apply it to the network that it was made for"
            )
        parts = {**dict(model.named_modules()), **bare_parameters(model)}
        for group in self.groups:
            for member in group.members:
                if member.module not in parts:
                    raise DebrideError(
                        f"the plan's group '{group.name}' names a module '{member.module}' "
                        "that the network does not have"
                    )
                end = member.end(group.units)
                if end > (wide := width(parts[member.module], member.side)):
                    raise DebrideError(
                        f"the plan's group '{group.name}' removes up to position {end - 1} of "
                        f"'{member.module}', which has {wide}"
                    )

    def to_json(self) -> str:
        """Write the plan as JSON text, one line a group."""
        groups = [
            {
                "name": group.name,
                "kind": group.kind,
                "units": group.units,
                "keep": write_ranges(group.keep),
                "taps": [[tap.layer, tap.read_at] for tap in group.taps],
                "members": [_write_member(member) for member in group.members],
            }
            for group in self.groups
        ]
        head = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "cost": {"before": self.before.to_dict(), "after": self.after.to_dict()},
            "made_by": dict(self.made_by),
        }
        lines = ",\n  ".join(json.dumps(group) for group in groups)
        return json.dumps(head, indent=1)[:-2] + f',\n "groups": [\n  {lines}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan and check every field.

        Raises
        ------
        DebrideError
            When the text is not JSON, of a newer schema, or names units out of range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DebrideError(f"the plan is not valid JSON: {error}") from error
        if not isinstance(data, dict) or "groups" not in data or "fingerprint" not in data:
            raise DebrideError(
                "this is JSON, and no plan: give the plan.json that debride prune wrote"
            )
        try:
            version = data["schema_version"]
            if version not in range(1, SCHEMA_VERSION + 1):
                raise DebrideError(
                    f"the plan has schema version {version!r}, this Debride reads 1 to "
                    f"{SCHEMA_VERSION}: update Debride or make the plan again"
                )
            from debride.planning.schema import check_form  # describes the classes of this file

            check_form(text, data)
            groups = tuple(_read_groups(data["groups"]))
            return cls(
                groups=groups,
                fingerprint=str(data["fingerprint"]),
                before=Costs.from_dict(data["cost"]["before"]),
                after=Costs.from_dict(data["cost"]["after"]),
                made_by=dict(data.get("made_by", {})),
            )
        except KeyError as error:
            raise DebrideError(f"the plan is damaged: it has no {error}") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DebrideError(f"the plan is damaged: {type(error).__name__}: {error}") from error


def removed_positions(groups: Iterable[PlannedGroup]) -> dict[tuple[str, Side], set[int]]:
    """Return, for each side of each module, the positions that planned groups remove."""
    removed: dict[tuple[str, Side], set[int]] = {}
    for group in groups:
        for member in group.members:
            removed.setdefault((member.module, member.side), set()).update(
                member.positions(group.removed)
            )
    return removed


def _write_member(member: Member) -> list[str | int]:
    numbers = [member.offset, member.block]
    if member.repeat > 1:
        numbers += [member.repeat, member.stride]
    return [member.module, member.side, *numbers]


def _read_member(entry: Sequence[Any], group: str) -> Member:
    module, side, *numbers = entry
    if (
        side not in get_args(Side)
        or len(numbers) not in (2, 4)
        or any(type(number) is not int or not 0 <= number <= MOST_UNITS for number in numbers)
        or not all(numbers[1:])
    ):
        raise DebrideError(f"the plan's group '{group}' has a damaged member '{module}'")
    return Member(str(module), side, *numbers)


def _read_groups(entries: Sequence[Mapping[str, Any]]) -> Iterator[PlannedGroup]:
    names: set[str] = set()
    units = 0
    for entry in entries:
        group = _read_group(entry)
        if group.name in names:
            raise DebrideError(f"the plan has two groups named '{group.name}'")
        names.add(group.name)
        units += group.units
        if units > MOST_UNITS:
            raise DebrideError(f"the plan's groups have over {MOST_UNITS} units together")
        yield group


def _read_group(entry: Mapping[str, Any]) -> PlannedGroup:
    name, units = str(entry["name"]), entry["units"]
    if not isinstance(units, int) or not 1 <= units <= MOST_UNITS:
        raise DebrideError(
            f"the plan's group '{name}' has {units!r} units: expected 1 to {MOST_UNITS}"
        )
    keep = read_ranges(entry["keep"], where=f"the plan's group '{name}'")
    if not keep:
        raise DebrideError(f"the plan's group '{name}' keeps nothing: keep at least one unit")
    if keep[-1] >= units:
        raise DebrideError(
            f"the plan's group '{name}' keeps unit {keep[-1]}, but has units 0 to {units - 1}"
        )
    if entry["kind"] not in get_args(Kind):
        raise DebrideError(f"the plan's group '{name}' has unknown kind {entry['kind']!r}")
    members = [_read_member(member, name) for member in entry["members"]]
    for member in members:
        if max(member.end(units), units * member.size) > MOST_UNITS:
            raise DebrideError(f"the plan's group '{name}' has a damaged member '{member.module}'")
    if len(set(members)) < len(members):
        raise DebrideError(f"the plan's group '{name}' has a member twice")
    taps = tuple(Tap(str(layer), str(read_at)) for layer, read_at in entry["taps"])
    for tap in taps:
        if not any((m.module, m.side) == (tap.layer, tap.side) for m in members):
            raise DebrideError(f"the plan's group '{name}' taps '{tap.layer}', which is no member")
    return PlannedGroup(
        name=name,
        kind=entry["kind"],
        units=units,
        members=tuple(members),
        taps=taps,
        keep=keep,
    )


def write_ranges(indices: Sequence[int]) -> str:
    """Write sorted indices as ranges, the way people write them.

    Examples
    --------
    >>> write_ranges([0, 1, 2, 5, 7, 8])
    '0-2 5 7-8'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def read_ranges(text: str, *, where: str = "plan") -> tuple[int, ...]:
    """Read what `write_ranges` wrote; duplicates and disorder are errors.

    Examples
    --------
    >>> read_ranges("0-2 5")
    (0, 1, 2, 5)
    """
    indices: list[int] = []
    for part in str(text).replace(",", " ").split():
        if not re.fullmatch("[0-9]{1,9}(-[0-9]{1,9})?", part):
            raise DebrideError(f"{where}: '{part}' is not an index or a range such as 3-7")
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if high < low or high >= MOST_UNITS or (indices and low <= indices[-1]):
            raise DebrideError(f"{where}: '{part}' is out of order; write indices in rising order")
        indices.extend(range(low, high + 1))
    return tuple(indices)


def weights_hash(model: nn.Module) -> str:
    """Return a SHA-256 over the values of a network's tensors, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the names and shapes of a network's tensors, whatever their values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
    return digest.hexdigest()
