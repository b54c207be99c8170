"""Budgets: what a set of kept units would cost, predicted without building the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from debride.errors import DebrideError, hint
from debride.models.attention import Heads, heads_of, is_attention, opened
from debride.planning.costs import macs_by_module
from debride.planning.layers import AXIS, bare_parameters, is_depthwise, is_grouped, part, width
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
    dims : array of (M, G), optional
        The same for the dimensions of attention heads, which are a factor beside the heads.
    """

    fixed: float
    base: Counts
    inputs: Counts
    outputs: Counts
    dims: Counts | None = None

    def __call__(self, removed: Counts) -> float:
        """Return the cost when `removed` (G,) units are gone."""
        kept = (1 - self.inputs @ removed) * (1 - self.outputs @ removed)
        if self.dims is not None:
            kept = kept * (1 - self.dims @ removed)
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
        raise DebrideError(f"no budget '{kind}': {hint(kind, _BUDGETS)}")
    return _BUDGETS[kind](model, groups, example)


@register_budget("macs")
def macs(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count multiply-accumulates for one image."""
    with opened(model):  # closed, some attention calls none of its layers
        spent = macs_by_module(model, example)
    return _product_model(model, groups, [_spent(model, *entry) for entry in spent.items()])


def _spent(model: nn.Module, name: str, count: int) -> Spent:
    """Say what else than its outputs a product shrinks with: attention's own reads no stream."""
    found = part(model, name)
    place = "" if isinstance(found, nn.Linear) else name
    while place:
        if not isinstance(each := part(model, place), Tensor) and is_attention(each):
            return Spent(place, count, inputs=isinstance(found, Tensor), dims=True)
        place = place.rpartition(".")[0]
    return Spent(name, count, inputs=True, dims=True)


@register_budget("params")
def params(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count parameters; vectors (biases, norms) shrink with their layer's output alone."""
    named = list(model.named_parameters())  # a tied one once
    return _product_model(model, groups, _tensors(model, named, lambda p: p.numel()))


def stored_bytes(model: nn.Module, groups: Sequence[Group]) -> CostModel:
    """Count bytes of parameters and buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return _product_model(
        model, groups, _tensors(model, named, lambda t: t.numel() * t.element_size())
    )


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


def _tensors(
    model: nn.Module, named: Sequence[tuple[str, Tensor]], size: Callable[[Tensor], int]
) -> list[Spent]:
    bare = bare_parameters(model)
    return [
        Spent(name, size(tensor)) if name in bare else _tensor(model, name, tensor, size(tensor))
        for name, tensor in named
    ]


def _tensor(model: nn.Module, name: str, tensor: Tensor, cost: int) -> Spent:
    owner = name.rpartition(".")[0]
    shrinks = tensor.ndim > 0  # a batch norm's count of batches shrinks with nothing
    place = owner
    while place:
        if is_attention(module := model.get_submodule(place)):
            heads = heads_of(module)
            if isinstance(heads, Heads) and name.removeprefix(f"{place}.") in heads.tensors:
                owner = place
            elif place == owner:
                shrinks = False
            break
        place = place.rpartition(".")[0]
    return Spent(owner if shrinks else "", cost, inputs=tensor.ndim > 1)


@register_budget("ratio")
def ratio(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Count units, each as one."""
    units = np.array([group.units for group in groups], dtype=np.float64)
    diagonal = np.diag(1 / units)
    return CostModel(0.0, units, np.zeros_like(diagonal), diagonal)


@dataclass(frozen=True)
class Spent:
    """What one module or tensor costs, and with what it shrinks besides its layer's outputs."""

    module: str
    cost: int
    inputs: bool = False
    dims: bool = False


def _product_model(model: nn.Module, groups: Sequence[Group], spent: Sequence[Spent]) -> CostModel:
    """Build the model from what is spent where."""
    shares = _shares(model, groups)
    rows = [entry for entry in spent if entry.module in shares]
    inputs = np.zeros((len(rows), len(groups)))
    outputs, dims = np.zeros_like(inputs), np.zeros_like(inputs)
    for row, entry in enumerate(rows):
        for column, sides in shares[entry.module].items():
            # Dimensions of heads thin out every head alike: a factor of their own.
            within = dims if groups[column].kind == "head_dim" else outputs
            within[row, column] = max(
                sides.get("out", 0.0),
                sides.get("heads", 0.0),
                sides.get("dims", 0.0) if entry.dims else 0.0,
            )
            if entry.inputs and "in" in sides:
                (dims if groups[column].kind == "head_dim" else inputs)[row, column] = sides["in"]
    return CostModel(
        fixed=float(sum(entry.cost for entry in spent if entry.module not in shares)),
        base=np.array([entry.cost for entry in rows], dtype=np.float64),
        inputs=inputs,
        outputs=outputs,
        dims=dims,
    )


def _shares(model: nn.Module, groups: Sequence[Group]) -> dict[str, dict[int, dict[str, float]]]:
    """Return, for modules and groups, what part of each side one unit takes away."""
    shares: dict[str, dict[int, dict[str, float]]] = {}
    for column, group in enumerate(groups):
        for member in group.members:
            found = part(model, member.module)
            # A grouped convolution loses whole groups: its outputs say it all.
            bare = member.side.startswith(AXIS)
            side = "out" if bare or is_depthwise(found) else member.side
            if member.side == "stated" or (side == "in" and is_grouped(found)):
                continue
            sides = shares.setdefault(member.module, {}).setdefault(column, {})
            sides[side] = sides.get(side, 0.0) + member.size / width(found, member.side)
    return shares
