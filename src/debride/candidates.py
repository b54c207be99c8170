"""The ways to make one step of a pruning, and the one that moves the outputs least."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from debride.planning.plan import PlannedGroup
from debride.recovery import Recovery
from debride.surgery.removal import narrow
from debride.validation import Validation


@dataclass(frozen=True)
class Candidate:
    """One way to make a step, and how far it moved the network's outputs.

    Attributes
    ----------
    distance : float
        From the original's outputs on the validation images.
    model : nn.Module
    groups : tuple of PlannedGroup
        What it keeps.
    normalise : str or None
        How scores of layers were compared.
    before, after : float
        The validation metric right after the cut, and after repair.
    outputs : Tensor
        (N, K) logits of the validation images.
    """

    distance: float
    model: nn.Module
    groups: tuple[PlannedGroup, ...]
    normalise: str | None
    before: float
    after: float
    outputs: Tensor


def _distance(candidate: Candidate) -> float:
    return candidate.distance


def nearest(
    model: nn.Module,
    groups: tuple[PlannedGroup, ...],
    cuts: Mapping[str | None, tuple[PlannedGroup, ...]],
    repairs: Sequence[Recovery],
    judge: Validation,
) -> Candidate:
    """Try cuts of a network, repaired and not; return what is nearest to the original.

    Parameters
    ----------
    model : nn.Module
        Untouched.
    groups : tuple of PlannedGroup
        What it keeps already.
    cuts : mapping
        What each way to compare layers would keep.
    repairs : sequence of callable
        The first, which is quick, shows which cut is best; only that one gets the others.
    judge : Validation
    """

    def cut_down(name: str | None, cut: tuple[PlannedGroup, ...]) -> Candidate:
        smaller = copy.deepcopy(model)
        narrow(smaller, cut, groups)
        outputs = judge.outputs(smaller)
        metric = judge.metric(outputs)
        return Candidate(judge.divergence(outputs), smaller, cut, name, metric, metric, outputs)

    def mend(candidate: Candidate, repair: Recovery) -> Candidate:
        repaired = copy.deepcopy(candidate.model)
        repair(repaired, candidate.groups)
        outputs = judge.outputs(repaired)
        mended = replace(
            candidate, distance=judge.divergence(outputs), model=repaired,
            after=judge.metric(outputs), outputs=outputs,
        )  # fmt: skip
        return min(mended, candidate, key=_distance)

    tried = (cut_down(name, cut) for name, cut in cuts.items())
    best = min((functools.reduce(mend, repairs[:1], each) for each in tried), key=_distance)
    return functools.reduce(mend, repairs[1:], best)
