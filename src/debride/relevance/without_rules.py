"""Passes without rules: autograd's own gradients, and the count of layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from debride.relevance.affine import affine
from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass
from debride.relevance.linear import LINEAR_OPERATORS
from debride.relevance.rules import rule_set


class GradientPass(RelevancePass):
    """Autograd's own backward for every call, with in-place calls made out of place.

    What gradient methods read at a tap is then what the module gave, not what a later in-place
    call made of it.
    """

    def apply(self, call: Call) -> Any:
        """Make the call as it stands; `setitem` writes into a copy."""
        if call.name == "setitem":
            result = call.args[0].clone()
            result[call.args[1]] = call.args[2]
            return result
        if call.name == "batch_norm" and not call.argument(5, "training", False):
            variance, weight = call.argument(2, "running_var"), call.argument(3, "weight")
            scale = (variance + call.argument(7, "eps", 1e-5)).rsqrt()
            plain = call.with_argument(0, "input", call.argument(0, "input").detach())
            return affine(
                call.argument(0, "input"), scale if weight is None else scale * weight, plain
            )
        return call()


def count_layers(model: nn.Module, images: Tensor) -> int:
    """Count the linear layers and convolutions that one forward calls, for rules by depth."""
    counting = _CountingPass(rule_set("epsilon"), layers=0)
    with counting, torch.enable_grad():
        model(images[:1].detach().requires_grad_())
    return counting.layers


class _CountingPass(GradientPass):
    def apply(self, call: Call) -> Any:
        result = super().apply(call)
        self.layers += call.name in LINEAR_OPERATORS
        return result
