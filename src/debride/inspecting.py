"""The work behind ``debride inspect``: what of a network can be cut, before any work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table

from debride import screens
from debride.data.images import open_images
from debride.files import write_atomic
from debride.opening import Network, device_named, open_network, open_parent, stored_network
from debride.planning.coupling import LeftAlone
from debride.planning.plan import fingerprint
from debride.planning.survey import Survey, survey

if TYPE_CHECKING:
    from debride.settings import InspectSettings

SIDE = 224
"""Pixels of an image where nothing says its size."""


def run(settings: InspectSettings) -> None:
    """Print the groups of a network, what they cost and what is left alone."""
    network = _open(settings)
    screens.show_network(network)
    size = "×".join(str(length) for length in network.preprocessing.spatial)
    channels = screens.plural(network.preprocessing.channels, "channel")
    screens.say("image", f"{size} pixels, {channels}")
    blank = torch.zeros(1, network.preprocessing.channels, *network.preprocessing.spatial)
    found = survey(network.model, blank.to(network.device), residual_width=settings.residual_width)
    show_survey(found)
    _show_left_alone(found.left_alone)
    if settings.out is not None:
        content = {"network": settings.model, "image": list(blank.shape[1:])}
        content |= {"fingerprint": fingerprint(network.model), **as_json(found)}
        write_atomic(settings.out, json.dumps(content, indent=1) + "\n")
        screens.say("written", str(settings.out))


def _open(settings: InspectSettings) -> Network:
    """Open the network; images, where they are named, say size, channels and classes."""
    device = device_named(settings.device)
    parent = open_parent(settings, device)
    if parent is not None:
        return stored_network(parent, device)
    if settings.data is not None:
        source = open_images(settings.data, classes=settings.classes, skip_bad=True)
        outputs, spatial, channels = len(source.classes), source.spatial, source.channels
    else:
        size = settings.image_size or (SIDE, SIDE)
        spatial = size * 2 if len(size) == 1 else size
        outputs, channels = len(settings.classes or ("", "")), 3
    return open_network(settings, outputs, spatial, channels, device)


def show_survey(found: Survey, most: int | None = None) -> None:
    """Say how much of a network can be cut, and list its groups.

    Parameters
    ----------
    most : int, optional
        List only so many, those with the most MACs first.
    """
    macs, params = max(found.costs.macs, 1), max(found.costs.params, 1)
    screens.say(
        "cut",
        f"{screens.plural(len(found.groups), 'group')} of coupled units, {found.units} units; at "
        f"most {found.macs / macs:.0%} of the MACs and {found.params / params:.0%} of the "
        "parameters can go",
    )
    entries = list(found.groups)
    if most is not None and len(entries) > most:
        entries = sorted(entries, key=lambda entry: -entry.macs)[:most]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("group", overflow="fold")
    table.add_column("kind")
    for name in ("units", "layers", "parameters", "MACs"):
        table.add_column(name, justify="right")
    for entry in entries:
        table.add_row(
            escape(entry.group.name),
            entry.group.kind,
            str(entry.group.units),
            str(len(entry.layers)),
            _part(entry.params, params),
            _part(entry.macs, macs),
        )
    if len(entries) < len(found.groups):
        table.add_row(f"and {len(found.groups) - len(entries)} more")
    table.add_section()
    table.add_row(
        "all together", "", str(found.units), "", _part(found.params, params),
        _part(found.macs, macs),
    )  # fmt: skip
    screens.show(table)


def _part(value: int, whole: int) -> str:
    return f"{screens.amount(value)} {value / whole:6.1%}"


def _show_left_alone(left: Sequence[LeftAlone]) -> None:
    """List what is not cut, by reason, like names as one pattern."""
    if not left:
        return
    reasons: dict[str, list[LeftAlone]] = {}
    for entry in left:
        reasons.setdefault(entry.reason, []).append(entry)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("left alone", overflow="fold", ratio=3)
    table.add_column("units", justify="right")
    table.add_column("why", ratio=2)
    for reason, entries in sorted(reasons.items(), key=lambda item: -len(item[1])):
        table.add_row(
            escape(", ".join(patterns(entry.name for entry in entries))),
            str(sum(entry.units for entry in entries)),
            escape(reason),
        )
    screens.show(table)


def patterns(names: Iterable[str]) -> list[str]:
    """Write names that differ only in their numbers as one.

    Examples
    --------
    >>> patterns(["blocks.0.attn.qkv", "blocks.1.attn.qkv", "head"])
    ['blocks.*.attn.qkv (2)', 'head']
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"(?<![^.])\d+(?![^.])", "*", name), []).append(name)
    return [
        f"{pattern} ({len(group)})" if len(group) > 1 else group[0]
        for pattern, group in alike.items()
    ]


def as_json(found: Survey) -> Mapping[str, Any]:
    """Return a survey as JSON holds it."""
    return {
        "costs": found.costs.to_dict(),
        "can_be_cut": {"units": found.units, "macs": found.macs, "params": found.params},
        "groups": [
            {
                "name": entry.group.name,
                "kind": entry.group.kind,
                "units": entry.group.units,
                "layers": list(entry.layers),
                "macs": entry.macs,
                "params": entry.params,
            }
            for entry in found.groups
        ],
        "left_alone": [
            {"name": left.name, "units": left.units, "reason": left.reason}
            for left in found.left_alone
        ],
    }
