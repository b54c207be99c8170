"""Budgets: what a set of kept units would cost, predicted without building the network."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.planning.costs import macs_by_module
from debride.planning.layers import is_depthwise, width
from debride.planning.plan import Group

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of how many units each group loses: Σ base · kept inputs · kept outputs.

    Attributes
    ----------
    fixed : float
        What no cut changes.
    base : array of (M,)
        Each affected module's cost before any cut.
    inputs, outputs : array of (M, G)
        Fraction of a module's inputs and outputs that one unit of each group takes away.
    """

    fixed: float
    base: Counts
    inputs: Counts
    outputs: Counts

    def __call__(self, removed: Counts) -> float:
        """Return the cost when `removed` (G,) units are gone."""
        kept = (1 - self.inputs @ removed) * (1 - self.outputs @ removed)
        return self.fixed + float(self.base @ kept)


Cost = Callable[[Counts], float]
"""From how many units each group loses (G,) to a cost."""

BudgetKind = Callable[[nn.Module, Sequence[Group], Tensor], Cost]

_BUDGETS: dict[str, BudgetKind] = {}


def register_budget(name: str) -> Callable[[BudgetKind], BudgetKind]:
    """Register what a budget counts, under the name of its argument and flag."""

    def add(function: BudgetKind) -> BudgetKind:
        _BUDGETS[name] = function
        return function

    return add


def budget_names() -> tuple[str, ...]:
    """Return the kinds of budget that `cost_model` knows."""
    return tuple(_BUDGETS)


def cost_model(kind: str, model: nn.Module, groups: Sequence[Group], example: Tensor) -> Cost:
    """Return how a kind of cost depends on what is cut."""
    if kind not in _BUDGETS:
        close = difflib.get_close_matches(kind, _BUDGETS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(_BUDGETS)}"
        raise DebrideError(f"no budget '{kind}': {hint}")
    return _BUDGETS[kind](model, groups, example)


@register_budget("macs")
def macs(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count multiply-accumulates for one image."""
    return _product_model(
        model, groups, [(n, m, True) for n, m in macs_by_module(model, example).items()]
    )


@register_budget("params")
def params(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count parameters; vectors (biases, norms) shrink with their layer's output alone."""
    sizes = [
        (name.rpartition(".")[0], parameter.numel(), parameter.ndim > 1)
        for name, parameter in model.named_parameters()  # a tied one once
    ]
    return _product_model(model, groups, sizes)


def stored_bytes(model: nn.Module, groups: Sequence[Group]) -> CostModel:
    """Count bytes of parameters and buffers."""
    sizes = []
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        # A scalar (a batch norm's count of batches) shrinks with nothing.
        owner = name.rpartition(".")[0] if tensor.ndim else ""
        sizes.append((owner, tensor.numel() * tensor.element_size(), tensor.ndim > 1))
    return _product_model(model, groups, sizes)


@register_budget("bytes")
def bytes_(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count bytes of the safetensors file: the tensors, and the header that names them."""
    stored = stored_bytes(model, groups)
    entries: dict[str, Any] = {}
    begin = 0
    for name, tensor in model.state_dict().items():
        end = begin + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    header = len(json.dumps(entries, separators=(",", ":")))
    return replace(stored, fixed=stored.fixed + 8 + header)


@register_budget("ratio")
def ratio(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count units, each as one."""
    units = np.array([group.units for group in groups], dtype=np.float64)
    diagonal = np.diag(1 / units)
    return CostModel(0.0, units, np.zeros_like(diagonal), diagonal)


def _product_model(
    model: nn.Module, groups: Sequence[Group], spent: Sequence[tuple[str, int, bool]]
) -> CostModel:
    """Build the model from (module, cost, whether the cost also shrinks with the inputs)."""
    modules = dict(model.named_modules())
    touched = {member.module for group in groups for member in group.members}
    rows = [entry for entry in spent if entry[0] in touched]
    inputs = np.zeros((len(rows), len(groups)))
    outputs = np.zeros_like(inputs)
    for column, group in enumerate(groups):
        for member in group.members:
            module = modules[member.module]
            reads = member.side == "in" and not is_depthwise(module)
            share = member.block / width(module, member.side)
            for row, (name, _, matrix) in enumerate(rows):
                if name == member.module and not reads:
                    outputs[row, column] += share
                elif name == member.module and matrix:
                    inputs[row, column] += share
    return CostModel(
        fixed=float(sum(cost for name, cost, _ in spent if name not in touched)),
        base=np.array([cost for _, cost, _ in rows], dtype=np.float64),
        inputs=inputs,
        outputs=outputs,
    )
