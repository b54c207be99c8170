"""From raw scores to one ranking over all units of a network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.planning.plan import PlannedGroup, removed_positions

Normalisation = Callable[[Tensor], Tensor]

_NORMALISATIONS: dict[str, Normalisation] = {}


def register_normalisation(name: str) -> Callable[[Normalisation], Normalisation]:
    """Register a function from a group's importances to values comparable across groups."""

    def add(function: Normalisation) -> Normalisation:
        _NORMALISATIONS[name] = function
        return function

    return add


def normalisation_names() -> tuple[str, ...]:
    """Return the names that `importances` knows."""
    return tuple(sorted(_NORMALISATIONS))


@register_normalisation("share")
def share(values: Tensor) -> Tensor:
    """Give each unit's share of its layer."""
    return values


@register_normalisation("share_width")
def share_width(values: Tensor) -> Tensor:
    """Give each unit's share of its layer times the layer's width: 1 is an average unit."""
    return values * len(values)


@register_normalisation("share_width_rank")
def share_width_rank(values: Tensor) -> Tensor:
    """Temper `share_width` by the root of the place within the layer.

    Where a few units hold most of a layer's relevance, all others look worthless to `share_width`
    and the layer is cut too thin; their order among themselves still tells them apart.
    """
    return share_width(values) * rank(values).sqrt()


@register_normalisation("rank")
def rank(values: Tensor) -> Tensor:
    """Give each unit's place within its layer, from 0 to 1: every layer is cut alike."""
    return (values.argsort().argsort().to(values.dtype) + 0.5) / len(values)


def check_normalisation(name: str) -> None:
    """Raise a sentence that names what is close, unless the normalisation is known."""
    if name not in _NORMALISATIONS:
        close = difflib.get_close_matches(name, _NORMALISATIONS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else ", ".join(normalisation_names())
        raise DebrideError(f"no normalisation '{name}': {hint}")


def importances(
    groups: Sequence[PlannedGroup], scores: Mapping[str, Tensor], normalise: str
) -> dict[str, Tensor]:
    """Return one comparable importance for each unit that a group still keeps, in that order.

    Each producing layer's scores are divided by the layer's total; a group with several
    producers (the layers that add into a residual stream) takes the mean over those that carry
    anything.

    Parameters
    ----------
    groups : sequence of PlannedGroup
        What is kept so far.
    scores : mapping of str to Tensor
        For each producing layer, (width,) scores of the positions that it kept so far.
    normalise : str
        ``"share_width_rank"``, ``"share_width"``, ``"share"`` or ``"rank"``.
    """
    check_normalisation(normalise)
    removed = {
        side: torch.tensor(sorted(p), dtype=torch.long)
        for side, p in removed_positions(groups).items()
    }
    result = {}
    for group in groups:
        shares = []
        for tap in group.taps:
            gone = removed.get((tap.layer, tap.side), torch.empty(0, dtype=torch.long))
            positions = torch.tensor(group.shown(tap, group.keep))
            # Scores belong to the narrowed layer: count how many positions before are gone.
            local = positions - torch.searchsorted(gone, positions)
            # A head may have lost some of its dimensions.
            present = ~torch.isin(positions, gone)
            given = scores[tap.layer]
            values = (given[local.clamp(max=len(given) - 1)] * present).sum(1)
            total = float(values.sum())
            if total > 0:
                shares.append(values / total)
        uniform = torch.full((len(group.keep),), 1 / len(group.keep), dtype=torch.float64)
        mean = torch.stack(shares).mean(0) if shares else uniform
        result[group.name] = _NORMALISATIONS[normalise](mean)
    return result
