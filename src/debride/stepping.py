"""One step of pruning: a cut tried in several ways, repaired, and the nearest to the original."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from debride.planning.budgets import Cost
from debride.planning.goals import Goal
from debride.planning.limits import Limits
from debride.planning.plan import PlannedGroup
from debride.planning.ranking import RANKINGS
from debride.planning.search import Move, StepRecord
from debride.recovery import Recovery
from debride.surgery.removal import narrow
from debride.validation import NotFiniteError, Validation

CANDIDATES: dict[str, tuple[str | None, ...]] = {
    "global": ("share_width", "share_width_rank"),
    "layer": (None,),
    "isomorphic": (None,),
}
"""Normalisations that a step tries; the one that moves the outputs least is kept."""


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
    before, after : float
        The validation metric, before and after repair.
    outputs : Tensor
        (N, K) logits on the validation images.
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


@dataclass(frozen=True)
class Stepper:
    """How every step of one pruning is made.

    Attributes
    ----------
    goal : Goal
    limits : Limits
    sets : sequence of hashable
        Which groups are ranked together.
    ranking : str
    names : tuple of str or None
        Normalisations to try; None is the ranking's own.
    repairs : sequence of Recovery
        A quick one that every way gets, and thorough ones for the best of them.
    judge : Validation
    """

    goal: Goal
    limits: Limits
    sets: Sequence[Hashable]
    ranking: str
    names: tuple[str | None, ...]
    repairs: Sequence[Recovery]
    judge: Validation

    def best(
        self,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        scores: Mapping[str, Tensor],
        move: Move,
    ) -> Candidate:
        """Cut a network down as a move says, and return the way that moves its outputs least.

        Parameters
        ----------
        model : nn.Module
            Cut down to `groups`; untouched.
        groups : sequence of PlannedGroup
        scores : mapping of str to Tensor
            For each producing layer, its present units' scores.
        move : Move
        """
        quick, thorough = self.repairs[:1], self.repairs[1:]
        cuts = [(name, self._cut(model, groups, scores, move, name)) for name in self.names]
        tried = (self._made(model, groups, name, cut) for name, cut in cuts)
        # which cut is best shows after the quick repair; only that cut is repaired thoroughly
        nearest = min((functools.reduce(self._mended, quick, c) for c in tried), key=_distance)
        best = functools.reduce(self._mended, thorough, nearest)
        if math.isinf(best.distance):
            self.judge.outputs(best.model)  # says what is wrong
        return best

    def _cut(
        self,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        scores: Mapping[str, Tensor],
        move: Move,
        name: str | None,
    ) -> tuple[PlannedGroup, ...]:
        return self.goal.cut(
            model, groups, scores, move.target, sets=self.sets,
            normalise=name or RANKINGS[self.ranking], limits=self.limits, strict=move.strict,
        )  # fmt: skip

    def _made(
        self,
        model: nn.Module,
        before: Sequence[PlannedGroup],
        name: str | None,
        cut: tuple[PlannedGroup, ...],
    ) -> Candidate:
        smaller = copy.deepcopy(model)
        narrow(smaller, cut, before)
        distance, metric, outputs = self._judged(smaller)
        return Candidate(distance, smaller, cut, name, metric, metric, outputs)

    def _mended(self, candidate: Candidate, repair: Recovery) -> Candidate:
        """Return the candidate as repaired where that brings it nearer."""
        repaired = copy.deepcopy(candidate.model)
        repair(repaired, candidate.groups)
        distance, metric, outputs = self._judged(repaired)
        mended = replace(
            candidate, distance=distance, model=repaired, after=metric, outputs=outputs
        )
        return min(mended, candidate, key=_distance)

    def _judged(self, model: nn.Module) -> tuple[float, float, Tensor]:
        """Return distance, metric and outputs; what is not finite is infinitely far."""
        try:
            outputs = self.judge.outputs(model)
        except NotFiniteError:
            return math.inf, 0.0, torch.empty(0)
        return self.judge.divergence(outputs), self.judge.metric(outputs), outputs


def record_of(candidate: Candidate, step: int, start: int, costs: Mapping[str, Cost]) -> StepRecord:
    """Return what is written down of a step.

    Parameters
    ----------
    candidate : Candidate
    step, start : int
        Its number, and that of the network that was cut.
    costs : mapping of str to callable
        Of the original network, ``"macs"`` and ``"params"``.
    """
    removed = np.array([len(group.removed) for group in candidate.groups], dtype=np.float64)
    shares = {name: cost(removed) / cost(np.zeros_like(removed)) for name, cost in costs.items()}
    return StepRecord(
        step=step,
        macs_kept=shares["macs"],
        params_kept=shares["params"],
        units_kept=1 - float(removed.sum()) / sum(group.units for group in candidate.groups),
        before_recovery=candidate.before,
        after_recovery=candidate.after,
        normalise=candidate.normalise,
        start=start,
    )
