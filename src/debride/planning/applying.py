"""What is looked at before a plan is applied: what it states against what is there."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from debride.planning.make import finish
from debride.planning.plan import Plan


def restated(model: nn.Module, plan: Plan, example: Tensor) -> tuple[Plan, list[str]]:
    """Return the plan with the costs that it really has, and in words what it stated otherwise.

    Parameters
    ----------
    model : nn.Module
        The uncut network; left as it is.
    plan : Plan
        One that fits: see `Plan.check` and `debride.planning.make.check_members`.
    example : Tensor
        (B, C, *spatial); the first image is used.

    Returns
    -------
    Plan
        With `before` and `after` counted anew.
    list of str
        A sentence where costs differ, as after an edit by hand, and one where weights do.
    """
    found = finish(model, plan.groups, example[:1], plan.made_by)
    said = []
    if (plan.before, plan.after) != (found.before, found.after):
        said.append(
            f"the plan states costs of {_in_words(plan)}, counted are {_in_words(found)}: it was "
            "edited, or made for another image size; the counted ones are written"
        )
    known, here = plan.made_by.get("weights"), found.made_by["weights"]
    if known not in (None, here):
        said.append(
            f"the plan was made from other weights (hash {str(known)[:12]}, these have "
            f"{here[:12]}): what it keeps was chosen for those"
        )
    return replace(plan, before=found.before, after=found.after), said


def _in_words(plan: Plan) -> str:
    before, after = plan.before, plan.after
    return f"{before.macs} → {after.macs} MACs, {before.params} → {after.params} parameters"
