"""Conservation layer by layer: what arrives at each module, and where it goes.

Not in the name of speed: every call of the network gets a stand-in for each input, so that what
it hands on is known call by call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass
from debride.relevance.ledger import on_relevance
from debride.relevance.result import Relevance
from debride.relevance.rules import RuleSet, rule_set
from debride.relevance.targets import Target
from debride.relevance.tracing import prepared, trace
from debride.relevance.without_rules import count_layers

_JOINS = frozenset({"add", "matmul", "bmm", "einsum"})


@dataclass(frozen=True)
class LayerAccount:
    """What one module did with relevance, over the whole batch.

    Attributes
    ----------
    name : str
        The module; a batch norm stands for what was merged into it too.
    operators : tuple of str
        The torch functions that it called.
    arriving, passed : float
        Relevance of the outputs and of the inputs of these calls, summed over them.
    constants, softmax, lost : float
        What biases and parameters absorbed, a softmax kept, and rules did not pass on.
    missing : float
        What is left of `arriving` after all of these: rounding, if all is well.
    """

    name: str
    operators: tuple[str, ...]
    arriving: float
    passed: float
    constants: float
    softmax: float
    lost: float

    @property
    def missing(self) -> float:
        """What is unaccounted for."""
        return self.arriving - self.passed - self.constants - self.softmax - self.lost


@dataclass(frozen=True)
class Join:
    """A sum or product of two activations, such as a residual or q·kᵀ.

    Attributes
    ----------
    name, operator : str
        The module and the torch function.
    arriving : float
        Σ|R| of the result; 0 inside of what makes a gate, which is held constant.
    branches : tuple of float
        Σ|R| that each operand received.
    """

    name: str
    operator: str
    arriving: float
    branches: tuple[float, ...]

    @property
    def dead(self) -> bool:
        """Whether relevance arrives and an operand receives none."""
        return self.arriving > 0 and min(self.branches) == 0


@dataclass(frozen=True)
class Audit:
    """Conservation layer by layer, beside the relevance itself.

    Attributes
    ----------
    relevance : Relevance
    layers : tuple of LayerAccount
        In the order of the forward.
    joins : tuple of Join
    """

    relevance: Relevance
    layers: tuple[LayerAccount, ...]
    joins: tuple[Join, ...]


def audit(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    rules: str | RuleSet = "epsilon",
) -> Audit:
    """Run one relevance pass and account for every module of the network.

    Parameters
    ----------
    model, images, target, rules
        As for `debride.attribute`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    >>> found = audit(model, torch.rand(1, 1, 4, 4), 0)
    >>> [layer.name for layer in found.layers]
    ['0', '1', '2', '3']
    >>> max(abs(layer.missing) for layer in found.layers) < 1e-5
    True
    """
    chosen = rule_set(rules)
    with prepared(model):
        layers = count_layers(model, images) if chosen.depths else 1
    seen = _AuditedPass(chosen, model, layers=layers)
    relevance = trace(model, images, target, through=seen)
    return Audit(relevance, tuple(seen.accounts(relevance)), tuple(seen.found_joins()))


@dataclass
class _Record:
    operators: list[str] = field(default_factory=list)
    arriving: list[Tensor] = field(default_factory=list)
    passed: list[Tensor] = field(default_factory=list)


class _AuditedPass(RelevancePass):
    fuses = False

    def __init__(self, rules: RuleSet, model: nn.Module, *, layers: int) -> None:
        super().__init__(rules, model, layers=layers)
        self._records: dict[str, _Record] = {}
        self._joins: list[tuple[str, str, dict[int, Tensor]]] = []
        self._parts = 0

    def apply(self, call: Call) -> Any:
        where, before = self.where(), self._parts
        stand_ins: list[tuple[Tensor, Tensor]] = []
        args = self._stand_in(call.args, stand_ins)
        kwargs = {key: self._stand_in(value, stand_ins) for key, value in call.kwargs.items()}
        result = super().apply(Call(call.name, call.func, args, kwargs))
        whole = self._parts == before  # else its parts have accounts of their own
        self._parts += 1
        if whole:
            self._follow(where, call.name, stand_ins, result)
        return result

    def _stand_in(self, value: Any, made: list[tuple[Tensor, Tensor]]) -> Any:
        if isinstance(value, Tensor):
            if not value.requires_grad or (value.is_leaf and isinstance(value, nn.Parameter)):
                return value
            alias = value.view_as(value)
            kind = self.gate_kind(value)
            if kind is not None:
                self.mark_gate(alias, kind)
            made_as = self.made_as(value)
            if made_as is not None:
                again = self.made(alias)
                again.account, again.merge = made_as.account, made_as.merge
            made.append((value.detach(), alias))
            return alias
        if type(value) in (tuple, list):
            return type(value)(self._stand_in(item, made) for item in value)
        return value

    def _follow(
        self, where: str, name: str, stand_ins: list[tuple[Tensor, Tensor]], result: Any
    ) -> None:
        record = self._records.setdefault(where, _Record())
        if name not in record.operators:
            record.operators.append(name)
        received: dict[int, Tensor] = {}
        for index, (value, alias) in enumerate(stand_ins):

            def enter(c: Tensor, index: int = index, value: Tensor = value) -> None:
                relevance = value * c
                record.passed.append(relevance.sum(dtype=torch.float64))
                received[index] = received.get(index, 0) + relevance.abs().sum()

            on_relevance(alias, enter)
        for output in result if isinstance(result, tuple | list) else (result,):
            if isinstance(output, Tensor) and output.requires_grad:
                self._arrive(record, received, output)
        if name in _JOINS and len(stand_ins) > 1:
            received.update({index: torch.zeros(()) for index in range(-1, len(stand_ins))})
            self._joins.append((where, name, received))

    @staticmethod
    def _arrive(record: _Record, received: dict[int, Tensor], output: Tensor) -> None:
        shown = output.detach()

        def enter(c: Tensor) -> None:
            relevance = shown * c
            record.arriving.append(relevance.sum(dtype=torch.float64))
            received[-1] = received.get(-1, 0) + relevance.abs().sum()

        on_relevance(output, enter)

    def accounts(self, relevance: Relevance) -> list[LayerAccount]:
        """Return one account for each module, merged norms with what was merged into them."""
        rows: dict[str, dict[str, Any]] = {}
        for where, record in self._records.items():
            name = self._standing_for(where)
            row = rows.setdefault(name, {"operators": {}, "arriving": 0.0, "passed": 0.0})
            row["operators"] |= dict.fromkeys(record.operators)
            row["arriving"] += float(sum(record.arriving))
            row["passed"] += float(sum(record.passed))
        for where, reached in self.ledger.reached.items():
            rows[self._standing_for(where)]["passed"] += float(reached)
        shares = (relevance.constants, relevance.remainders, relevance.lost)
        sums = [self._by_row(share) for share in shares]
        return [
            LayerAccount(
                name, tuple(row["operators"]), row["arriving"], row["passed"],
                *(share.get(name, 0.0) for share in sums),
            )
            for name, row in rows.items()
        ]  # fmt: skip

    def found_joins(self) -> list[Join]:
        """Return what each operand of each sum and product received."""
        return [Join(where, name, *_numbers(received)) for where, name, received in self._joins]

    def _by_row(self, shares: Mapping[str, float]) -> dict[str, float]:
        rows: dict[str, float] = {}
        for where, value in shares.items():
            name = self._standing_for(where)
            rows[name] = rows.get(name, 0.0) + value
        return rows

    def _standing_for(self, where: str) -> str:
        while where in self.merged:
            where = self.merged[where]
        return where


def _numbers(received: Mapping[int, Tensor]) -> tuple[float, tuple[float, ...]]:
    found = {index: float(value) for index, value in received.items()}
    return found.pop(-1), tuple(found[index] for index in sorted(found))
