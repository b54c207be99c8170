"""A torch call of the model, and what calls are known by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Call:
    """One torch call of the model, ready to be made out of place."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Make the call as it stands: autograd's own backward."""
        return self.func(*self.args, **self.kwargs)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument given by position or by name."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def with_argument(self, position: int, name: str, value: Any) -> Call:
        """Return the call with one argument replaced."""
        if len(self.args) > position:
            args = (*self.args[:position], value, *self.args[position + 1 :])
            return Call(self.name, self.func, args, self.kwargs)
        return Call(self.name, self.func, self.args, self.kwargs | {name: value})


RENAMED: dict[str, tuple[str, Callable[..., Any]]] = {
    "__add__": ("add", torch.Tensor.add),
    "__radd__": ("add", torch.Tensor.add),
    "__sub__": ("sub", torch.Tensor.sub),
    "__mul__": ("mul", torch.Tensor.mul),
    "__rmul__": ("mul", torch.Tensor.mul),
    "__truediv__": ("div", torch.Tensor.div),
    "true_divide": ("div", torch.Tensor.div),
    "divide": ("div", torch.Tensor.div),
    "multiply": ("mul", torch.Tensor.mul),
    "subtract": ("sub", torch.Tensor.sub),
    "__matmul__": ("matmul", torch.matmul),
    "__getitem__": ("getitem", torch.Tensor.__getitem__),
}

NUMBERS = frozenset({"item", "__bool__", "__int__", "__float__", "__index__"})

# Questions about a tensor: no relevance crosses them.
PASSIVE = frozenset(
    "size dim numel stride is_floating_point is_complex is_contiguous storage_offset data_ptr "
    "element_size ndimension nelement get_device type __len__ __eq__ __ne__ __lt__ __le__ "
    "__gt__ __ge__ __hash__ __repr__ __format__ __bool__ __int__ __float__ __index__ __contains__ "
    "eq ne lt le gt ge item tolist numpy argmax argmin argsort any all isnan isinf isfinite sign "
    "equal allclose new_zeros new_ones new_empty new_full new_tensor zeros_like ones_like "
    "empty_like full_like rand_like randn_like is_same_size requires_grad_ retain_grad "
    "register_hook is_nonzero _is_view dim_order detach detach_ _assert logical_and logical_or "
    "logical_not floor ceil round one_hot bincount unique".split()
)
