"""`plan`: from scores and a budget to what every group keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from debride.criteria.scores import Scores
from debride.errors import DebrideError
from debride.planning.budgets import cost_model, stored_bytes
from debride.planning.costs import Costs, measure
from debride.planning.goals import goal_of, read_budget
from debride.planning.groups import find_groups
from debride.planning.layers import width
from debride.planning.limits import limits_of
from debride.planning.plan import Group, Plan, PlannedGroup, fingerprint, weights_hash
from debride.planning.ranking import RANKINGS, check_ranking, ranked_together


def plan(
    model: nn.Module,
    scores: Scores,
    example: Tensor,
    *,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    ratio: float | None = None,
    ranking: str = "global",
    normalise: str | None = None,
    floor: float = 0.05,
    round_to: int = 1,
    protect: Sequence[str] = (),
    latency_table: str | Path | None = None,
    residual_width: bool = False,
    groups: Sequence[Group] | None = None,
) -> Plan:
    """Decide what every group keeps, in one shot.

    Parameters
    ----------
    model : nn.Module
        The network that was scored.
    scores : Scores
    example : Tensor
        (B, C, *spatial), one image is enough.
    macs, params, bytes, latency : float, optional
        Fraction of the multiply-accumulates, the parameters, the bytes on disk, or the measured
        CPU latency of one image to keep; half of the MACs where nothing is given.
    ratio : float, optional
        Fraction of the units to remove.
    ranking : str
        ``"global"`` compares units across the network, ``"isomorphic"`` across groups of the same
        kinds and shapes, ``"layer"`` cuts every layer alike.
    normalise : str, optional
        How scores become comparable; see `debride.planning.ranking`.
    floor : float
        Fraction of its units that every group keeps at least (and at least one).
    round_to : int
        Widths kept are multiples of this.
    protect : sequence of str
        Names or patterns (``layer4.*``) of layers whose outputs are not cut.
    latency_table : str or Path, optional
        Latencies to plan by instead of measuring; see `debride.planning.latency.table_cost`.
    residual_width : bool
        Cut the width of residual streams too, those of transformers and ConvNeXt. Then `scores`
        must have been made with it as well.
    groups : sequence of Group, optional
        Found by tracing the network where absent.

    Raises
    ------
    DebrideError
        When the budget cannot be met within 0.01 of the original total (a measured latency: 0.05).
    """
    kind, kept = read_budget(macs=macs, params=params, bytes=bytes, latency=latency, ratio=ratio)
    check_ranking(ranking, normalise)
    example = example[:1]
    if groups is None:
        groups = find_groups(model, example, residual_width=residual_width).groups
    for tap in {tap for group in groups for tap in group.taps}:
        wide = width(model.get_submodule(tap.layer), tap.side)
        if len(scores.values.get(tap.layer, ())) != wide:
            raise DebrideError(
                f"the scores do not fit layer '{tap.layer}', which has {wide} units: "
                f"score this network{', with residual_width=True' if residual_width else ''}"
            )
    limits = limits_of(model, groups, floor=floor, round_to=round_to, protect=protect)
    goal = goal_of(kind, kept, model, groups, example, latency_table=latency_table)
    goal.check(groups, limits)
    chosen = goal.cut(
        model, [group.planned(range(group.units)) for group in groups], scores.values, kept,
        sets=ranked_together(ranking, model, groups), normalise=normalise or RANKINGS[ranking],
        limits=limits,
    )  # fmt: skip
    made_by = {
        "criterion": scores.criterion, "images": scores.count,
        kind: kept if kind != "ratio" else 1 - kept,
        "ranking": ranking, "floor": floor, "round_to": round_to, "protect": list(protect),
        **({"residual_width": True} if residual_width else {}),
    }  # fmt: skip
    return finish(model, chosen, example, made_by)


def check_members(model: nn.Module, plan: Plan, example: Tensor) -> None:
    """Raise unless the plan's groups couple the layers that this network couples.

    A plan from which a member is gone would cut one layer and not the layer that reads it.

    Parameters
    ----------
    model : nn.Module
        The network before any cut; left as it is.
    plan : Plan
    example : Tensor
        (B, C, *spatial); the first image is used.

    Raises
    ------
    DebrideError
        Naming the first group, and what it lacks or has too much of.
    """
    groups = find_groups(model, example, residual_width=True).groups
    known = {member: group for group in groups for member in group.members}
    way_out = "take the plan as debride prune wrote it, and change only what groups keep"
    for group in plan.groups:
        # by members: what a group is called may differ from one version to the next
        own = next((known[member] for member in group.members if member in known), None)
        if own is None:
            raise DebrideError(f"the plan's group '{group.name}' is none of the network: {way_out}")
        lacks = [member for member in own.members if member not in group.members]
        extra = [member for member in group.members if member not in own.members]
        for what, members in (("lacks", lacks), ("has too much:", extra)):
            if members:
                raise DebrideError(
                    f"the plan's group '{group.name}' {what} '{members[0].module}' "
                    f"({_SIDES.get(members[0].side, members[0].side)}): {way_out}"
                )
        if group.units != own.units:
            raise DebrideError(
                f"the plan's group '{group.name}' has {group.units} units, in the network "
                f"{own.units}: {way_out}"
            )


_SIDES = {"in": "input side", "out": "output side"}


def finish(
    model: nn.Module,
    groups: Sequence[PlannedGroup],
    example: Tensor,
    made_by: Mapping[str, Any],
) -> Plan:
    """Make a `Plan` of chosen units, with what the network will cost."""
    before = measure(model, example)
    removed = np.array([len(group.removed) for group in groups], dtype=np.float64)
    after = Costs(
        macs=round(cost_model("macs", model, groups, example)(removed)),
        params=round(cost_model("params", model, groups, example)(removed)),
        bytes=round(stored_bytes(model, groups)(removed)),
    )
    made_by = {**made_by, "weights": weights_hash(model)}
    return Plan(tuple(groups), fingerprint(model), before, after, made_by)
