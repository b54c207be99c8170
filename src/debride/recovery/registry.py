"""The recoveries that are known, and `begin`, which readies one for a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from debride.errors import DebrideError, hint
from debride.planning.plan import Group, PlannedGroup

Recovery = Callable[[nn.Module, Sequence[PlannedGroup]], None]
"""Repairs a cut network in place, given what its groups keep."""

Beginning = Callable[..., Recovery]
"""(original, groups, data, *, device) → Recovery; sees the network before any cut."""

_RECOVERIES: dict[str, Beginning] = {}


def register_recovery(name: str) -> Callable[[Beginning], Beginning]:
    """Register a function (original, groups, data, *, device) that returns a `Recovery`."""

    def add(function: Beginning) -> Beginning:
        _RECOVERIES[name] = function
        return function

    return add


def recovery_names() -> tuple[str, ...]:
    """Return the names that `begin` knows, ``"none"`` included."""
    return ("none", *sorted(_RECOVERIES))


def check_recovery(name: str | None) -> None:
    """Raise a sentence that names what is close, unless the recovery is known."""
    if name is not None and name not in recovery_names():
        raise DebrideError(f"no recovery '{name}': {hint(name, recovery_names())}")


def tries(name: str | None) -> tuple[str, ...]:
    """Return the recoveries that a step tries: quick recalibration first, then the one named.

    Examples
    --------
    >>> tries("least_squares"), tries("batchnorm"), tries("none")
    (('batchnorm', 'least_squares'), ('batchnorm',), ())
    """
    if name is None or name == "none":
        return ()
    return tuple(dict.fromkeys(("batchnorm", name)))


def begin(
    name: str | None,
    original: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    device: str | torch.device | None = None,
) -> Recovery:
    """Ready a recovery before the first cut.

    Parameters
    ----------
    name : str or None
        ``"batchnorm"``, ``"mean"``, ``"least_squares"``, ``"reconstruction"`` or ``"none"``.
    original : nn.Module
        The network before any cut; must stay as it is while the recovery is used.
    groups : sequence of Group
        What may be cut.
    data : iterable
        Re-iterable batches of training images; labels are ignored.
    device : str or torch.device, optional
        Where the images go; the network's own by default.

    Returns
    -------
    callable
        (cut network, its groups) → None; repairs in place.
    """
    check_recovery(name)
    if name is None or name == "none":
        return lambda model, groups: None
    if device is None:
        device = next((p.device for p in original.parameters()), torch.device("cpu"))
    return _RECOVERIES[name](original, groups, data, device=device)
