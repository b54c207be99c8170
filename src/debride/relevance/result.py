"""`Relevance`: what an explanation method found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from debride.relevance.ledger import Ledger


@dataclass(frozen=True)
class Relevance:
    """What one explanation of a batch found.

    Attributes
    ----------
    input : Tensor
        (B, C, *spatial), like the images.
    output : Tensor
        (B,) the explained values.
    shares : mapping of str to float
        Where the relevance of the whole batch ended. Every method has ``input``; a relevance pass
        also ``constants``, ``softmax`` (the softmax remainder) and ``lost`` (what rules did not
        pass on); integrated gradients also ``baseline``, the output at the baseline.
    delta : float
        Explained output minus the sum of `shares`: rounding for LRP, the error of the sum over
        steps for integrated gradients, and without a meaning for methods that do not share out.
    taps : mapping of str to Tensor
        Relevance of each tapped module's output, in its shape. A module that the explained
        output does not read is absent.
    constants, remainders, lost : mapping of str to float
        Shares of constants, softmax remainders and losses, layer by layer.
    deltas : Tensor or None
        (B,) `delta` image by image, where the method knows it.
    unknown : mapping of str to list of str
        Operators without a rule, whose gradient was used, and the modules that they stand in.
    """

    input: Tensor
    output: Tensor
    shares: Mapping[str, float]
    delta: float
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    remainders: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    deltas: Tensor | None = None
    unknown: Mapping[str, list[str]] = field(default_factory=dict)


def from_maps(
    relevance: Tensor,
    output: Tensor,
    *,
    at_baseline: Tensor | None = None,
    taps: Mapping[str, Tensor] | None = None,
    unknown: Mapping[str, list[str]] | None = None,
) -> Relevance:
    """Make the result of a method that has no ledger.

    Parameters
    ----------
    relevance : Tensor
        (B, C, *spatial).
    output : Tensor
        (B,) the explained values.
    at_baseline : Tensor, optional
        (B,) what the output is where nothing is relevant.

    Examples
    --------
    >>> from_maps(torch.ones(1, 1, 2), torch.tensor([3.0])).delta
    1.0
    """
    per_image = relevance.flatten(1).sum(1, dtype=torch.float64)
    shares = {"input": float(per_image.sum())}
    deltas = output.double() - per_image
    if at_baseline is not None:
        shares["baseline"] = float(at_baseline.sum(dtype=torch.float64))
        deltas = deltas - at_baseline
    return Relevance(
        input=relevance,
        output=output,
        shares=shares,
        delta=float(deltas.sum()),
        taps=taps or {},
        deltas=deltas,
        unknown=unknown or {},
    )


def from_ledger(
    relevance: Tensor, output: Tensor, ledger: Ledger, unknown: Mapping[str, list[str]]
) -> Relevance:
    """Make the result of a relevance pass: its account adds up to the explained output."""
    constants, remainders = ledger.constants.totals(), ledger.remainders.totals()
    lost = ledger.lost.totals()
    shares = {
        "input": float(relevance.sum(dtype=torch.float64)),
        "constants": sum(constants.values()),
        "softmax": sum(remainders.values()),
        "lost": sum(lost.values()),
    }
    return Relevance(
        input=relevance,
        output=output,
        shares=shares,
        delta=float(output.sum(dtype=torch.float64)) - sum(shares.values()),
        constants=constants,
        remainders=remainders,
        lost=lost,
        unknown=unknown,
    )


def joined(parts: Sequence[Relevance]) -> Relevance:
    """Put the results for slices of a batch together: maps side by side, shares added up."""
    if len(parts) == 1:
        return parts[0]
    unknown: dict[str, list[str]] = {}
    for part in parts:
        for name, places in part.unknown.items():
            known = unknown.setdefault(name, [])
            known += [place for place in places if place not in known]
    deltas = [part.deltas for part in parts if part.deltas is not None]
    return Relevance(
        input=torch.cat([part.input for part in parts]),
        output=torch.cat([part.output for part in parts]),
        shares=_added([part.shares for part in parts]),
        delta=sum(part.delta for part in parts),
        taps={name: torch.cat([part.taps[name] for part in parts]) for name in parts[0].taps},
        constants=_added([part.constants for part in parts]),
        remainders=_added([part.remainders for part in parts]),
        lost=_added([part.lost for part in parts]),
        deltas=torch.cat(deltas) if len(deltas) == len(parts) else None,
        unknown=unknown,
    )


def _added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name: None for part in parts for name in part}
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
