"""In-place calls of the model: made out of place, and followed to whoever reads the tensor next."""

from __future__ import annotations

import torch
from torch import Tensor

from debride.relevance.calls import Call
from debride.relevance.remembered import Remembered


def is_in_place(name: str) -> bool:
    """Tell by a function's name whether it writes into its first argument."""
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def out_of_place(call: Call) -> Tensor | None:
    """Turn an in-place call into its out-of-place form.

    Returns
    -------
    Tensor or None
        The tensor that the call would change; None where there is no out-of-place form.
    """
    if call.kwargs.get("inplace"):
        call.kwargs = call.kwargs | {"inplace": False}
    elif call.name == "__setitem__":
        call.name = "setitem"
    else:
        plain = call.name[:-1]
        for home in (torch.Tensor, torch, torch.nn.functional):
            if hasattr(home, plain):
                call.name, call.func = plain, getattr(home, plain)
                break
        else:
            return None
    changed: Tensor = call.argument(0, "input")
    return changed


class Overwritten(Remembered[Tensor]):
    """What became of the tensors that the model thinks it wrote into."""

    def current(self, value: Tensor) -> Tensor:
        """Return what in-place calls on a tensor, or on what it is a view of, made of it."""
        while (became := self.recall(value)) is not None:
            value = became
        base = value._base
        if base is not None and self.recall(base) is not None:
            whole = self._whole(base)
            start = value.storage_offset() - base.storage_offset() + whole.storage_offset()
            value = whole.as_strided(value.shape, value.stride(), start)
        return value

    def replace(self, target: Tensor, result: Tensor) -> None:
        """Remember what an in-place call made of `target`, and so of all that shares its values."""
        base = target._base
        if result._base is target or (base is not None and result._base is base):
            return  # the same values, as of dropout
        if base is not None:  # what this is a view of changes, and with it all other views of it
            whole = self._whole(base).clone()  # laid out alike
            start = target.storage_offset() - base.storage_offset()
            whole.as_strided(target.shape, target.stride(), start).copy_(result)
            target, result = base, whole
        self.remember(target, result)

    def _whole(self, base: Tensor) -> Tensor:
        """Return what became of a tensor that others are views of, laid out as it was."""
        whole = self.current(base)
        if whole.stride() == base.stride():
            return whole
        return torch.empty_strided(
            base.shape, base.stride(), dtype=base.dtype, device=base.device
        ).copy_(whole)
