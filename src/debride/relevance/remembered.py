"""What is known of single tensors, for as long as they live."""

from __future__ import annotations

import weakref
from typing import TypeVar

from torch import Tensor

V = TypeVar("V")


class Remembered(dict[int, tuple[weakref.ref[Tensor], V]]):
    """One value for each of some tensors, by which tensor it is; what dies is forgotten.

    Examples
    --------
    >>> import torch
    >>> names, x = Remembered(), torch.zeros(2)
    >>> names.remember(x, "x")
    >>> names.recall(x), names.recall(x.clone())
    ('x', None)
    >>> del x
    >>> len(names)
    0
    """

    def remember(self, tensor: Tensor, value: V) -> None:
        """Remember a value, in place of the one before."""
        key = id(tensor)
        self[key] = (weakref.ref(tensor, lambda _: self.pop(key, None)), value)

    def recall(self, tensor: object) -> V | None:
        """Return what is remembered of this very tensor, None of any other or of no tensor."""
        entry = self.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None
