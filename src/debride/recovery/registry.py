"""The kinds of recovery that are known, by the name that ``--recovery`` takes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from debride.errors import DebrideError
from debride.recovery.batchnorm import recalibrate

Recovery = Callable[..., nn.Module]

_RECOVERIES: dict[str, Recovery] = {"batchnorm": recalibrate}


def register_recovery(name: str) -> Callable[[Recovery], Recovery]:
    """Register a function (model, data, *, device) that repairs a cut network in place."""

    def add(function: Recovery) -> Recovery:
        _RECOVERIES[name] = function
        return function

    return add


def recovery_names() -> tuple[str, ...]:
    """Return the names that `recover` knows, ``"none"`` included."""
    return ("none", *sorted(_RECOVERIES))


def check_recovery(name: str | None) -> None:
    """Raise a sentence that names what is close, unless the recovery is known."""
    if name is not None and name not in recovery_names():
        close = difflib.get_close_matches(name, recovery_names(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(recovery_names())}"
        raise DebrideError(f"no recovery '{name}': {hint}")


def recover(
    name: str | None,
    model: nn.Module,
    data: Iterable[Any],
    *,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Repair a cut network in place by the recovery of that name."""
    check_recovery(name)
    if name is None or name == "none":
        return model
    return _RECOVERIES[name](model, data, device=device)
