"""One run of a network that watches where every channel goes, call by call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from debride.models.attention import Heads, heads_of, is_attention
from debride.planning.labels import Units, compact, varying
from debride.planning.layers import AXIS, bare_parameters, width
from debride.planning.plan import Side

MOST_AXIS = 4
"""The last axis that a plan has a name for."""

OUTPUT = "the network's output"
GIVEN_OUT = "the network gives these channels out"
UNFOLLOWED = "attention gives these channels out in a way of its own"
ON_REQUEST = "the width of a residual stream is cut on request alone (--residual-width)"

Operation = Callable[["Trace", Any, tuple[Any, ...], dict[str, Any], Any], None]
"""(trace, function, its arguments, its keywords, its result) → None; labels the result."""

OPERATIONS: dict[str, Operation] = {}
"""What each torch function does to labels, by its name without underscores."""


def operation(*names: str) -> Callable[[Operation], Operation]:
    """Register what torch functions of these names do to labels."""

    def add(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return add


class Trace(TorchFunctionMode):
    """Gives the outputs of every layer labels and follows them through every torch call.

    A call without a known meaning leaves whatever enters it alone, so that what is not
    understood is never cut. Attention that has its own description is not looked into.

    Parameters
    ----------
    model : nn.Module
    residual_width : bool
        Follow what attention reads and gives, and parameters that stand in no layer, so that the
        residual streams of transformers and ConvNeXt become units.

    Attributes
    ----------
    sides : dict
        For (module or bare parameter, side): the (width,) labels that stand there.
    attention : dict of str to Heads or str
        Attention modules that ran, and where their heads lie or why they cannot be cut.
    """

    def __init__(self, model: nn.Module, *, residual_width: bool = False) -> None:
        super().__init__()
        self.model = model
        self.residual_width = residual_width
        self.units = Units()
        self.sides: dict[tuple[str, Side], Tensor] = {}
        self.attention: dict[str, Heads | str] = {}
        self._norms: dict[str, set[str | None]] = {}
        self.modules = dict(model.named_modules())
        self.made_by: Any = WeakTensorKeyDictionary()
        self._labels: Any = WeakTensorKeyDictionary()
        self._owners = {
            id(parameter): name
            for name, module in reversed(self.modules.items())
            for parameter in module.parameters(recurse=False)
        }
        self._constants = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._stack = [""]
        self._inside = 0
        self._kept = self.units.new(1)
        self.units.leave(self._kept, UNFOLLOWED if residual_width else ON_REQUEST)
        self._bare: dict[int, str] = {}
        if residual_width:
            for name, parameter in bare_parameters(model).items():
                self._bare[id(parameter)] = name
                if len(dims := varying(parameter)) == 1:
                    self.lay(parameter, dims[0])

    def run(self, example: Tensor) -> Any:
        """Run the network on one image; return its output."""
        handles = []
        try:
            for name, module in self.modules.items():
                known = bool(name) and is_attention(module)
                handles.append(
                    module.register_forward_pre_hook(
                        lambda _, args, kwargs, name=name, known=known: self._enter(
                            name, known, (args, kwargs)
                        ),
                        with_kwargs=True,
                    )
                )
                handles.append(
                    module.register_forward_hook(
                        lambda _, __, out, name=name, known=known: self._leave(name, known, out)
                    )
                )
            # With gradients, as fused paths for inference would hide the layers.
            with torch.enable_grad(), self:
                output = self.model(example.clone().requires_grad_() + 0)
        finally:
            for handle in handles:
                handle.remove()
        for number, tensor in enumerate(tensors_in(output)):
            self.leave(tensor, OUTPUT if number == 0 else GIVEN_OUT)
        return output

    def _enter(self, name: str, known: bool, given: Any) -> None:
        self._stack.append(name)
        if known:
            self._inside += 1
            self.attention[name] = heads = heads_of(self.modules[name])
            for tensor in tensors_in(given):
                if self.labels(tensor) is not None:
                    self._read(name, heads, tensor)

    def _read(self, name: str, heads: Heads | str, tensor: Tensor) -> None:
        """Let the projections of an attention module read the units of a stream."""
        if not self.residual_width:
            self.leave(tensor, ON_REQUEST)
        elif isinstance(heads, str):
            self.leave(tensor, f"it runs through {heads}")
        else:
            layers = {f"{name}.{layer}" if layer else name for layer, _ in heads.rows}
            if any(width(self.modules[each], "in") != tensor.shape[-1] for each in layers):
                self.leave(tensor, "attention reads these channels in a way of its own")
                return
            read = self.along(tensor, -1)
            for each in layers:
                self.stand(each, "in", read)

    def _leave(self, name: str, known: bool, output: Any) -> None:
        self._stack.pop()
        if known:
            self._inside -= 1
            heads = self.attention[name]
            first, *others = tensors_in(output)
            for tensor in others:
                self.label(tensor, self._kept.reshape([1] * tensor.ndim))
            made = self._kept
            if self.residual_width and isinstance(heads, Heads):
                made = self.produce(f"{name}.{heads.output}", first.shape[-1])
            self.label(first, made.view([*[1] * (first.ndim - 1), -1]))

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.__name__.strip("_")
        if self._inside or next(tensors_in(result), None) is None:
            if name == "setitem":
                self._lost(name, args, kwargs)
            return result
        place, module = self.place
        norm = place if name == "batch_norm" and isinstance(module, _BatchNorm) else None
        for tensor in tensors_in((args, kwargs)):
            if tensor in self.made_by:
                self._norms.setdefault(self.made_by[tensor], set()).add(norm)
        try:
            OPERATIONS[name](self, func, args, kwargs, result)
        except Exception:  # unknown, or called in a way that was not thought of
            self._lost(name, args, kwargs)
        return result

    def _lost(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for tensor in tensors_in((args, kwargs)):
            self.leave(tensor, f"{name} mixes these channels")

    # -- what operations ask and say ------------------------------------------------------------

    @property
    def follows(self) -> dict[str, str]:
        """For layers whose output one batch norm alone reads, and nothing but it: that norm."""
        makers = Counter(norm for by in self._norms.values() for norm in by)
        read = {maker: list(by) for maker, by in self._norms.items() if len(by) == 1}
        return {m: by[0] for m, by in read.items() if by[0] is not None and makers[by[0]] == 1}

    @property
    def heads_read_by(self) -> set[str]:
        """The layers that read what the heads of attention give."""
        return {f"{n}.{h.output}" for n, h in self.attention.items() if isinstance(h, Heads)}

    @property
    def place(self) -> tuple[str, nn.Module]:
        """The innermost module that is running."""
        return self._stack[-1], self.modules[self._stack[-1]]

    def owner(self, weight: Any) -> str | None:
        """Return the name of the module whose parameter this is, the running one first."""
        name, module = self.place
        if any(weight is parameter for parameter in module.parameters(recurse=False)):
            return name
        return self._owners.get(id(weight))

    def lay(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Give a bare parameter units along one dimension, if it is one and streams may be cut."""
        name = self._bare.get(id(tensor))
        if name is None or dim > MOST_AXIS or self.labels(tensor) is not None:
            return self.labels(tensor)
        units = self.units.new(tensor.shape[dim])
        self.sides[name, f"{AXIS}{dim}"] = units  # type: ignore[index]
        self.label(tensor, units.view([-1 if d == dim else 1 for d in range(tensor.ndim)]))
        return self.labels(tensor)

    def is_constant(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a parameter or buffer of the network."""
        return id(tensor) in self._constants

    def labels(self, tensor: Any) -> Tensor | None:
        """Return a tensor's compact labels."""
        found: Tensor | None = self._labels.get(tensor) if isinstance(tensor, Tensor) else None
        return found

    def label(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Give a tensor labels; they are made compact."""
        found = None if labels is None else compact(labels)
        if found is not None:
            self._labels[tensor] = found
        else:
            self._labels.pop(tensor, None)

    def leave(self, tensor: Any, reason: str) -> None:
        """Leave all units in a tensor alone."""
        labels = self.labels(tensor)
        if labels is not None:
            self.units.leave(labels, reason)

    def along(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the (size,) labels along one dimension; where others differ, none are cut."""
        size, labels = tensor.shape[dim], self.labels(tensor)
        none = torch.zeros(size, dtype=torch.long)
        if labels is None:
            return none
        if labels.numel() != labels.shape[dim]:
            self.leave(tensor, "a layer reads these channels in an order of its own")
            return none
        if labels.numel() == 1 < size:
            self.leave(tensor, "a layer reads one channel in several places")
            return none
        return labels.flatten()

    def stand(self, name: str, side: Side, labels: Tensor) -> None:
        """Say what stands on one side of a layer; several calls of it see the same units."""
        if (name, side) in self.sides:
            self.units.unite(self.sides[name, side], labels)
        else:
            self.sides[name, side] = labels

    def produce(self, name: str, count: int) -> Tensor:
        """Return the labels of a layer's outputs, new at its first call."""
        if (name, "out") not in self.sides:
            self.sides[name, "out"] = self.units.new(count)
        return self.sides[name, "out"]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Give every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
