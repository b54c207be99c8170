"""What a network costs: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from debride.models.attention import is_attention
from debride.models.state import undisturbed


@dataclass(frozen=True)
class Costs:
    """Cost of one image.

    Attributes
    ----------
    macs : int
        Multiply-accumulates (`torch.utils.flop_counter` operations / 2).
    params : int
        Elements of all parameters.
    bytes : int
        Of all parameters and buffers, as stored.
    """

    macs: int
    params: int
    bytes: int

    def to_dict(self) -> dict[str, int]:
        """Return the three numbers by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, int]) -> Costs:
        """Read what `to_dict` wrote."""
        return cls(int(data["macs"]), int(data["params"]), int(data["bytes"]))


def measure(model: nn.Module, example: Tensor) -> Costs:
    """Measure what one image costs.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor
        Shape (B, C, *spatial); the first image is used.

    Examples
    --------
    >>> measure(nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.zeros(1, 3, 4, 4)).macs
    3456
    """
    tensors = [*model.parameters(), *model.buffers()]
    return Costs(
        macs=sum(macs_by_module(model, example).values()),
        params=sum(p.numel() for p in model.parameters()),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def macs_by_module(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return the multiply-accumulates of one image by the innermost module that spends them.

    What a module multiplies by the weight of a linear layer, without calling that, is the layer's.
    What it multiplies by rows of a parameter of its own, as attention does, is the parameter's.
    """
    counter = FlopCounterMode(display=False)
    modules = dict(model.named_modules())
    owners = {
        id(parameter): name if isinstance(module, nn.Linear) else f"{name}.{leaf}"
        for name, module in modules.items()
        for leaf, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.Linear) or is_attention(module)
    }
    stack: list[str] = [""]
    spent: dict[str, int] = {}
    seen = 0

    def settle() -> None:
        nonlocal seen
        total = int(counter.get_total_flops())
        spent[stack[-1]] = spent.get(stack[-1], 0) + total - seen
        seen = total

    def enter(name: str) -> None:
        settle()
        stack.append(name)

    def leave() -> None:
        settle()
        stack.pop()

    def running() -> nn.Module | None:
        return modules.get(stack[-1])

    class Products(TorchFunctionMode):
        """Sees whose weight a linear product is taken with."""

        def __torch_function__(
            self,
            func: Any,
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            name = None
            if func is F.linear and len(args) > 1 and not isinstance(running(), nn.Linear):
                weight = args[1] if args[1]._base is None else args[1]._base
                name = owners.get(id(weight))
            if name is None:
                return func(*args, **(kwargs or {}))
            enter(name)
            result = func(*args, **(kwargs or {}))
            leave()
            return result

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(lambda _m, _i, name=name: enter(name)))
            handles.append(module.register_forward_hook(lambda _m, _i, _o: leave()))
        with undisturbed(model), torch.no_grad(), _math_attention(), counter, Products():
            model.eval()
            model(example[:1])
            settle()
    finally:
        for handle in handles:
            handle.remove()
    return {name: flops // 2 for name, flops in spent.items() if flops}


@contextlib.contextmanager
def _math_attention() -> Iterator[None]:
    """Count attention as the products that it is: fused kernels hide their operations."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
