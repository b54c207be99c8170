"""Calls that are several operators at once, taken apart into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.operators import halved

_PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "addmm": torch.mm,
    "addmv": torch.mv,
    "addbmm": torch.bmm,
    "baddbmm": torch.bmm,
    "addcmul": torch.mul,
    "addcdiv": torch.div,
}


@register_operator(*_PRODUCTS)
def product_and_sum(relevance: RelevancePass, call: Call) -> Tensor:
    """β · input + α · product: a product and a sum, each by its own rule."""
    addend, first, second = (call.argument(i, n) for i, n in _names(call.name))
    product: Tensor = relevance.run(_PRODUCTS[call.name], first, second)
    alpha = call.kwargs.get("alpha", call.kwargs.get("value", 1))
    beta = call.kwargs.get("beta", 1)
    if call.name == "addbmm":
        product = product.sum(0)
    product = product * alpha
    if beta == 0:
        return product
    result: Tensor = relevance.run(torch.add, addend * beta, product)
    return result


def _names(name: str) -> list[tuple[int, str]]:
    factors = ("tensor1", "tensor2") if name.startswith("addc") else ("batch1", "batch2")
    if name == "addmm":
        factors = ("mat1", "mat2")
    elif name == "addmv":
        factors = ("mat", "vec")
    return list(enumerate(("input", *factors)))


@register_operator("glu")
def gated_linear_unit(relevance: RelevancePass, call: Call) -> Any:
    """Gated linear units: the first half of the channels, gated by the second."""
    signal, squashed = call.argument(0, "input").chunk(2, call.argument(1, "dim", -1))
    return relevance.run(torch.mul, signal, relevance.run(torch.sigmoid, squashed))


@register_operator("var")
def variance(_: RelevancePass, call: Call) -> Tensor:
    """Variances: a sum of squares, so half of the gradient."""
    return halved(call())
