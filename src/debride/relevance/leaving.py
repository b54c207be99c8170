"""Where a network leaves autograd: what it computes there is followed until it is used again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from debride.errors import DebrideError

DETACH = "Tensor.detach()"
_COPIES = {"numpy": "NumPy", "__array__": "NumPy", "tolist": "Python numbers"}
_MADE_ANEW = frozenset({"tensor", "as_tensor", "asarray"})


class Departures:
    """Tensors that depend on the images though autograd does not know of it.

    Each is remembered with how and in which module it left, and so is all that is made of it.
    """

    def __init__(self) -> None:
        self.copied: tuple[str, str] | None = None
        self._left: dict[int, tuple[weakref.ref[Tensor], tuple[str, str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._left) or self.copied is not None

    def leave(self, how: str, where: str, values: Any) -> None:
        """Remember values that left; of NumPy and numbers only that some did."""
        if how in _COPIES.values():
            self.copied = how, where
        self._mark(values, (how, where))

    def carry(self, name: str, given: Any, result: Any) -> None:
        """Whatever a call makes out of what has left has left too."""
        came = self.copied if name in _MADE_ANEW else self.of(given)
        if came is not None:
            self._mark(result, came)

    def of(self, values: Any) -> tuple[str, str] | None:
        """Return how and where one of these values left; None if none did."""
        for tensor in _tensors(values):
            entry = self._left.get(id(tensor))
            # what an autograd.Function computes without gradients gets one as it returns
            if entry is not None and entry[0]() is tensor and not tensor.requires_grad:
                return entry[1]
        return None

    def _mark(self, values: Any, came: tuple[str, str]) -> None:
        for tensor in _tensors(values):
            if tensor.is_floating_point() and not tensor.requires_grad:
                self._left[id(tensor)] = (
                    weakref.ref(tensor, partial(self._forget, id(tensor))),
                    came,
                )

    def _forget(self, key: int, _: weakref.ref[Tensor]) -> None:
        self._left.pop(key, None)


def copy_of(func: Callable[..., Any]) -> str | None:
    """Say how a call leaves autograd that only reads values; None if it does not."""
    name = func.__name__
    if name == "__get__":
        return "Tensor.data" if getattr(func, "__self__", None) is torch.Tensor.data else None
    return DETACH if name == "detach" else _COPIES.get(name)


def gradless(where: str) -> str:
    """Say what switches gradients off where they are off.

    Raises
    ------
    DebrideError
        Under ``torch.inference_mode()``, whose tensors cannot meet gradients again.
    """
    if torch.is_inference_mode_enabled():
        raise DebrideError(
            f"the module '{where}' runs under torch.inference_mode(), through which no relevance "
            "passes: take that out of its forward"
        )
    return "torch.no_grad()"


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
