"""Sums and joins: by the addends' own shares (autograd's), by their sizes, or alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from debride.relevance.blocks import blocks
from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.ledger import Account, on_relevance
from debride.relevance.rules.base import Remade


@register_operator("add", "sub", "rsub", "__rsub__", "where", "cat", "concat", "stack", "hstack",
                   "vstack", "lerp", "setitem", "masked_fill", "pad", "masked_scatter",
                   "index_fill", "index_add", "scatter", "scatter_add", "index_put")  # fmt: skip
def add_constants(relevance: RelevancePass, call: Call) -> Any:
    """Sums and joins: linear in what depends on the input; constants absorb their share."""

    def stand_in(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.requires_grad or not value.is_floating_point():
                return value
            return relevance.ledger.leaf(relevance.where(), value)
        if type(value) in (tuple, list):
            return type(value)(stand_in(item) for item in value)
        return value

    if relevance.rules.sums != "ratio" and call.name in ("add", "sub"):
        return _shared(relevance, call)
    if call.name in _WRITES:
        call = _number_as_tensor(call)
    args, kwargs = stand_in(call.args), {k: stand_in(v) for k, v in call.kwargs.items()}
    if call.name == "setitem":
        result = args[0].clone()
        result[args[1]] = args[2]
        return result
    result = call.func(*args, **kwargs)
    if call.name in ("add", "sub", "rsub", "__rsub__"):
        number, sign = _added_number(call)
        if number:
            relevance.ledger.watch(relevance.where(), result, sign * number)
    elif call.name == "pad":
        _absorb_padding(relevance, call, result)
    return result


_WRITES = {"setitem": 2, "masked_fill": 2, "index_fill": 3}
"""Where the functions that write a number into a tensor take it."""


def _number_as_tensor(call: Call) -> Call:
    """Give a written number as a tensor, which can have a stand-in; −inf absorbs nothing."""
    position = _WRITES[call.name]
    value = call.argument(position, "value")
    if isinstance(value, Tensor) or value in (float("inf"), float("-inf")):
        return call
    like = call.argument(0, "input")
    return call.with_argument(position, "value", torch.full((), value).to(like))


def _added_number(call: Call) -> tuple[float, float]:
    alpha = call.kwargs.get("alpha", 1)
    first, second = (*call.args, call.kwargs.get("other"))[:2]
    if isinstance(second, int | float):
        sign = {"add": alpha, "sub": -alpha}.get(call.name, 1)
        return float(second), float(sign)
    if isinstance(first, int | float):
        return float(first), 1.0
    return 0.0, 1.0


def _absorb_padding(relevance: RelevancePass, call: Call, result: Tensor) -> None:
    """A border of one number absorbs what arrives at it."""
    value = call.argument(3, "value") or 0
    if not value or call.argument(2, "mode", "constant") != "constant":
        return
    empty = torch.zeros_like(call.argument(0, "input"), requires_grad=False)
    border = F.pad(empty, call.argument(1, "pad"), value=value)
    ledger, place = relevance.ledger, relevance.where()
    on_relevance(result, lambda c: ledger.absorb(place, (c * border).sum()))


class _SharedSum(torch.autograd.Function):
    """y = a + b; each gets R by its size, or half of it."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, half: bool, account: Account, remade: Remade | None
    ) -> Tensor:
        ctx.save_for_backward(b, *((a,) if remade is None else remade.sources))
        ctx.make = None if remade is None else remade.make
        ctx.half, ctx.account = half, account
        return a + b

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        b, a, *more = ctx.saved_tensors
        if ctx.make is not None:
            a = ctx.make(a, *more)
        if ctx.half:
            relevance = (a + b) * c
            # An addend that is 0 can carry nothing: its half is lost.
            parts = [torch.where(v == 0, torch.zeros_like(c), relevance / (2 * v)) for v in (a, b)]
            empty = (a == 0).to(c.dtype) + (b == 0).to(c.dtype)
            ctx.account.lose((relevance * empty).sum() / 2)
        else:
            parts = _by_size(a, b, c)
        return parts[0].sum_to_size(a.shape), parts[1].sum_to_size(b.shape), None, None, None


def _by_size(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
    """Return c of two addends that share R by their sizes."""
    alike = a.shape == b.shape
    parts = [torch.empty_like(c), torch.empty_like(c)]
    for block in blocks(c):
        i = block.index if alike else ...
        first, second = a[i], b[i]
        size = (first.abs() + second.abs()).clamp_(min=torch.finfo(c.dtype).tiny)
        s = (first + second).mul_(c[i]).div_(size)
        for part, addend in zip(parts, (first, second), strict=True):
            torch.mul(s, addend.sign(), out=part[i])
        if not alike:
            break
    return parts


def _shared(relevance: RelevancePass, call: Call) -> Tensor:
    """Sum by sizes or alike; numbers and constants take part and absorb."""
    a, b = call.args[0], call.argument(1, "other")
    like, place = a if isinstance(a, Tensor) else b, relevance.where()
    parts = [
        value if isinstance(value, Tensor) else torch.full((), value).to(like) for value in (a, b)
    ]
    alpha = call.kwargs.get("alpha", 1)
    factor = alpha if call.name == "add" else -alpha
    if factor != 1:
        parts[1] = parts[1] * factor
    parts = [v if v.requires_grad else relevance.ledger.leaf(place, v.to(like)) for v in parts]
    half = relevance.rules.sums == "half"
    remade = relevance.remade_as(parts[0])
    y: Tensor = _SharedSum.apply(*parts, half, Account(relevance.ledger, place), remade)
    return y
