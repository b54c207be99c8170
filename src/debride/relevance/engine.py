"""The relevance pass: one forward in which every torch call is given the backward of its rule.

Inside ``with RelevancePass(rules)`` a `TorchFunctionMode` sees every call that the model makes.
What flows backwards afterwards is c = R / activation, so that R = activation ⊙ c wherever one
asks for it: linear operators then need no rule of their own, autograd does the rest.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from debride.errors import DebrideError
from debride.models.state import named_modules
from debride.relevance.calls import NUMBERS, PASSIVE, RENAMED, Call
from debride.relevance.inplace import Overwritten, is_in_place, out_of_place
from debride.relevance.leaving import DETACH, Departures, copy_of, gradless
from debride.relevance.ledger import Account, Ledger
from debride.relevance.linear import LinearOperator
from debride.relevance.remembered import Remembered
from debride.relevance.rules import Rule, RuleSet
from debride.relevance.rules.base import Remade, propagate

Handler = Callable[["RelevancePass", "Call"], Any]

_OPERATORS: dict[str, Handler] = {}


def register_operator(*names: str) -> Callable[[Handler], Handler]:
    """Register what a torch function of these names does with relevance.

    Names are those of the functions (``"add"`` stands for ``torch.add``, ``Tensor.add`` and
    ``Tensor.add_``); an in-place call reaches the handler as its out-of-place form.
    """

    def add(handler: Handler) -> Handler:
        for name in names:
            _OPERATORS[name] = handler
        return handler

    return add


@dataclass
class _Made:
    """The output of a linear operator or a batch norm: what may follow depends on it."""

    account: Account | None = None
    merge: tuple[Rule, Tensor, LinearOperator] | None = None
    """The rule, the input and the operator that a batch norm merges into."""
    readers: int = 0


class RelevancePass(TorchFunctionMode):
    """Give every torch call made inside the block the backward of its relevance rule.

    Attributes
    ----------
    layers : int
        How many linear layers and convolutions the network has, for rules by depth.
    ledger : Ledger
    unknown : dict
        Operators without a rule, by name: the modules that they were met in. Their gradient was
        used.
    merged : dict
        Modules that a batch norm was merged into, and the norm's module.

    Raises
    ------
    DebrideError
        With ``strict=True``, at the first operator without a rule.
    """

    fuses: ClassVar[bool] = True
    """Whether attention meets the rules in the backward only, which needs less memory."""

    def __init__(
        self,
        rules: RuleSet,
        model: nn.Module | None = None,
        *,
        strict: bool = False,
        layers: int = 1,
    ):
        super().__init__()
        self.layers = layers
        self.rules = rules
        self.strict = strict
        self.ledger = Ledger()
        self.departures = Departures()
        self.unknown: dict[str, list[str]] = {}
        self._names = {} if model is None else {id(m): n for n, m in named_modules(model)}
        self._overwritten = Overwritten()
        self._gates: Remembered[str] = Remembered()
        self._unsigned: Remembered[bool] = Remembered()
        self._made: Remembered[_Made] = Remembered()
        self._remade: Remembered[Remade] = Remembered()
        self._place: str | None = None
        self.merged: dict[str, str] = {}
        self._met = 0
        self._by_name = bool(rules.names)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Meet one torch call of the model."""
        kwargs = kwargs or {}
        name = func.__name__
        if name == "__get__" or name in PASSIVE:
            if self._overwritten:
                args = self._prepare(args)
            if name in NUMBERS:
                args = (args[0].detach(),)  # torch warns of numbers out of what has a gradient
            result = func(*args, **kwargs)
            how = copy_of(func)
            if how is not None and (_active(args) or self.departures.of(args)):
                self.departures.leave(how, self.where(), result)
            return result
        args = self._prepare(args)
        if kwargs:
            kwargs = {key: self._prepare(value) for key, value in kwargs.items()}
        call = Call(name, func, args, kwargs)
        if not (_active(args) or _active(tuple(kwargs.values()))):
            result = call()
            if self.departures:
                if is_in_place(name):  # what shares its values changes too
                    self._returns(self.departures.of(args))
                self.departures.carry(name, (args, kwargs), result)
            return result
        if self.departures:
            came = self.departures.of((args, kwargs))
            if came is not None and came[0] != DETACH:  # which is to be a constant
                self._returns(came)
        if not torch.is_grad_enabled():
            how, where = gradless(self.where()), self.where()
            result = self.meet(call)
            self.departures.leave(how, where, result)
            return result
        return self.meet(call)

    def meet(self, call: Call) -> Any:
        """Give one call that depends on the input its rule; handlers use it for their parts."""
        if call.name in RENAMED:
            call = Call(*RENAMED[call.name], call.args, call.kwargs)
        if self._made:
            self._count_readers(call.args)
            if self._may_overwrite(call):
                return self.apply(call)
        if not (is_in_place(call.name) or call.kwargs.get("inplace")):
            return self.apply(call)
        changed = out_of_place(call)
        if changed is None:
            self._report(call.name)
        result = self.apply(call)
        if changed is not None and result is not changed:
            self._overwritten.replace(changed, result)
        return result

    def apply(self, call: Call) -> Any:
        """Make an out-of-place call with the backward of its rule."""
        handler = _OPERATORS.get(call.name)
        if handler is not None:
            return handler(self, call)
        result = call()
        if _active((result,)):
            self._report(call.name)
        return result

    def run(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call as if the model had made it."""
        if not (_active(args) or _active(tuple(kwargs.values()))):
            return func(*args, **kwargs)
        return self.meet(Call(func.__name__, func, args, kwargs))

    def where(self) -> str:
        """Return the name of the module whose forward is running."""
        if self._place is not None:
            return self._place
        frame, own = sys._getframe(1), globals()
        while True:
            # The pass's own methods are left out first: to look at a frame's names is slow.
            if frame.f_globals is not own and frame.f_code.co_varnames[:1] == ("self",):
                owner = frame.f_locals.get("self")
                if isinstance(owner, nn.Module) and id(owner) in self._names:
                    return self._names[id(owner)] or type(owner).__name__
            if frame.f_back is None:
                return "(outside the network)"
            frame = frame.f_back

    def current(self, value: Any) -> Any:
        """Return a tensor, or what holds some, with what in-place calls of the model made of it."""
        if not self._overwritten:
            return value
        if isinstance(value, dict):
            return type(value)((key, self.current(item)) for key, item in value.items())
        with torch._C.DisableTorchFunction():  # the pass may be on
            return self._prepare(value)

    def departed(self, output: Any) -> tuple[str, str] | None:
        """Return how and where what the network gave left autograd, if it did and that is known."""
        return self.departures.of(output) or self.departures.copied

    # -- gates, folds -------------------------------------------------------------------------

    def mark_gate(self, tensor: Tensor, kind: str) -> Tensor:
        """Remember that a tensor came out of a squashing function, so may be a gate."""
        self._gates.remember(tensor, kind)
        return tensor

    def mark_unsigned(self, tensor: Tensor) -> Tensor:
        """Remember that a tensor is nowhere negative, so that nobody need look."""
        self._unsigned.remember(tensor, True)
        return tensor

    def unsigned(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is known to be nowhere negative."""
        return self._unsigned.recall(tensor) is not None

    def gate_kind(self, tensor: Tensor) -> str | None:
        """Return which squashing function made a tensor, None if none did."""
        return self._gates.recall(tensor)

    def linear(self, x: Tensor, operator: LinearOperator) -> Tensor:
        """Apply a linear operator with its rule, and remember it for a batch norm that follows."""
        first, self._met = self._met == 0, self._met + 1
        depth = (self._met - 1) / max(self.layers - 1, 1)
        name = self.where() if self._by_name or operator.bias is not None else None
        rule = self.rules.rule_for(operator, first=first, name=name or "", depth=depth)
        if rule.plain:
            y = operator(x, bias=operator.bias)
            if name is not None and operator.bias is not None:
                self.ledger.watch(name, y, operator.bias, operator.channel_dim)
            self.made(y)
            return y
        name = self.where() if name is None else name
        account = Account(self.ledger, name, unsigned=self.unsigned(x))
        if rule.of_input and not first:
            raise DebrideError(
                f"the rule {type(rule).__name__} holds for the layer that reads the image, which "
                f"'{account.where}' is not: give it as `first` of the rule set"
            )
        if rule.of_input:  # R goes the rest of the way by itself, when all else has gone back
            account.read = x
            x = x.detach().requires_grad_()
            self.ledger.read.append(x)
        return self._propagate(rule, x, operator, lambda: operator(x, bias=operator.bias), account)

    def fold(
        self, y: Tensor, scale: Tensor, shift: Tensor, output: Callable[[], Tensor]
    ) -> Tensor | None:
        """Merge a batch norm into the linear operator that made `y`.

        Returns
        -------
        Tensor or None
            None where nothing linear made `y`, or its rule does not ask for it.
        """
        made = self.made_as(y)
        if made is None or made.merge is None or made.account is None:
            return None
        rule, x, operator = made.merge
        account = replace(made.account, where=self.where())
        self.merged[made.account.where] = account.where
        return self._propagate(rule, x, operator.folded(scale, shift), output, account)

    def activated(self, y: Tensor, name: str) -> None:
        """Tell the linear operator that made `y`, if one did, which activation reads it."""
        made = self.made_as(y)
        if made is not None and made.account is not None:
            made.account.after = name

    def made(self, y: Tensor) -> _Made:
        """Remember an output whose values no backward needs, so that a ReLU may write into it."""
        made = _Made()
        self._made.remember(y, made)
        return made

    def made_as(self, y: Tensor) -> _Made | None:
        """Return what is remembered of an output, None for other tensors."""
        return self._made.recall(y)

    def _propagate(
        self,
        rule: Rule,
        x: Tensor,
        operator: LinearOperator,
        output: Callable[[], Tensor],
        account: Account,
    ) -> Tensor:
        y = propagate(rule, x, operator, output, account, self.remade_as(x))
        made = self.made(y)
        made.account, made.merge = account, (rule, x, operator)
        return y

    def remade(self, y: Tensor, make: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """Remember how `y` is made of tensors that are kept anyway, if that is cheap."""
        self._remade.remember(y, Remade(tuple(v.detach() for v in sources), make))
        return y

    def remade_as(self, y: Tensor) -> Remade | None:
        """Return how a tensor is made again, None where it has to be kept."""
        return self._remade.recall(y)

    @contextlib.contextmanager
    def standing_in(self, place: str) -> Iterator[None]:
        """Say where the calls stand that are made inside the block, in the backward."""
        self._place = place
        try:
            yield
        finally:
            self._place = None

    # -- in-place operators, parameters -------------------------------------------------------

    def _prepare(self, value: Any) -> Any:
        """Put in what in-place calls changed, and take parameters out of autograd's sight."""
        if isinstance(value, Tensor):
            if self._overwritten:
                value = self._overwritten.current(value)
            # Leaves first: to ask whether one is a parameter is slow.
            if value.requires_grad and value.is_leaf and isinstance(value, nn.Parameter):
                return value.detach()
            return value
        if type(value) in (tuple, list):
            return type(value)([self._prepare(item) for item in value])
        return value

    def _count_readers(self, values: Iterable[Any]) -> None:
        for value in values:
            made = self._made.recall(value)
            if made is not None:
                made.readers += 1
            elif type(value) in (tuple, list):
                self._count_readers(value)

    def _may_overwrite(self, call: Call) -> bool:
        """Tell whether an in-place ReLU may stay in place, which saves a copy of its input.

        It may where it alone reads y, which no backward needs: R = y ⊙ c is 0 wherever the ReLU
        changes y.
        """
        if call.name != "relu_" and not (call.name == "relu" and call.kwargs.get("inplace")):
            return False
        y = call.argument(0, "input")
        made = self.made_as(y)
        return made is not None and made.readers == 1 and not y._is_view()

    def _report(self, name: str) -> None:
        where = self.where()
        if self.strict:
            raise DebrideError(
                f"no relevance rule for '{name}' (in module '{where}'): register one with "
                "@register_operator, or run without strict to use its gradient"
            )
        self._enter(name, where)

    def _returns(self, came: tuple[str, str] | None) -> None:
        """Name what left autograd and comes back as a constant."""
        if came is None:
            return
        if self.strict:
            raise DebrideError(
                f"the module '{came[1]}' leaves autograd by {came[0]}, through which no relevance "
                "passes: take that out of its forward, or run without strict to hold it constant"
            )
        self._enter(*came)

    def _enter(self, name: str, where: str) -> None:
        places = self.unknown.setdefault(name, [])
        if where not in places:
            places.append(where)


def _active(values: Iterable[Any]) -> bool:
    for value in values:
        if isinstance(value, Tensor):
            if value.requires_grad:
                return True
        elif type(value) in (tuple, list) and _active(value):
            return True
    return False
