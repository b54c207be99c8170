"""Average and max pooling, means and sums over dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.kept import with_back


def _by_size(x: Tensor, y: Tensor, c: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """Return c of x for y = A x, A ≥ 0, R by |x|: c_x = sign(x) ⊙ Aᵀ(y ⊙ c / A|x|)."""
    with torch.enable_grad():
        size = x.abs().requires_grad_()
        total = f(size)
    s = y * c / total.detach().clamp(min=torch.finfo(y.dtype).tiny)
    (back,) = torch.autograd.grad(total, size, s)
    return back * x.sign()


@register_operator("sum", "mean", "nanmean", "avg_pool1d", "avg_pool2d", "avg_pool3d",
                   "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")  # fmt: skip
def average(relevance: RelevancePass, call: Call) -> Any:
    """Averages and sums: linear, or by the sizes of what is summed."""
    x = call.argument(0, "input")
    if relevance.rules.averages == "ratio" or relevance.unsigned(x) or not x.amin().item() < 0:
        return call()

    def f(value: Tensor) -> Tensor:
        result: Tensor = call.with_argument(0, "input", value)()
        return result

    return with_back(x, f, lambda x, y, c: _by_size(x, y, c, f))


def _to_winners(x: Tensor, y: Tensor, c: Tensor, pool: dict[str, tuple[int, ...]]) -> Tensor:
    """Return c of a max pool's input: R is split among the winners of a window."""
    spatial = y.shape[2:]
    kernel, stride, padding, dilation = (
        pool[k] for k in ("kernel", "stride", "padding", "dilation")
    )
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in
             zip(spatial, stride, kernel, dilation, strict=True)]  # fmt: skip
    border: list[int] = []
    for size, before, need in zip(x.shape[2:], padding, reach, strict=True):
        border = [before, max(need - size - before, 0), *border]
    padded = F.pad(x, border, value=float("-inf"))
    windows: list[tuple[Any, ...]] = [
        (
            ...,
            *(
                slice(o * d, o * d + (n - 1) * s + 1, s)
                for o, d, n, s in zip(offset, dilation, spatial, stride, strict=True)
            ),
        )
        for offset in itertools.product(*(range(k) for k in kernel))
    ]
    won = [padded[window] == y for window in windows]
    winners = won[0].to(torch.uint8) if len(won) < 256 else won[0].long()
    for other in won[1:]:
        winners += other
    share = c / winners
    back = torch.zeros_like(padded)
    for window, winner in zip(windows, won, strict=True):
        back[window] += share * winner
    inner: list[Any] = [slice(p, p + n) for p, n in zip(padding, x.shape[2:], strict=True)]
    return back[(..., *inner)]


@register_operator("max_pool1d", "max_pool2d", "max_pool3d",
                   "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
                   "_max_pool1d", "_max_pool2d", "_max_pool3d")  # fmt: skip
def max_pool(relevance: RelevancePass, call: Call) -> Any:
    """Max pooling: to the winner, or split among winners that tie."""
    x = call.argument(0, "input")
    if relevance.rules.ties == "first" or x.ndim < 3:
        return call()
    spatial = x.ndim - 2
    if call.argument(1, "kernel_size") is None:
        return call()
    sizes: dict[str, tuple[int, ...]] = {}
    for position, (key, default) in enumerate(
        (("kernel_size", None), ("stride", None), ("padding", 0), ("dilation", 1)), start=1
    ):
        value = call.argument(position, key)
        value = default if value is None or value == [] else value
        value = sizes["kernel"] if value is None else value
        numbers = (value,) if isinstance(value, int) else tuple(value)
        name = key.removesuffix("_size")
        sizes[name] = numbers * spatial if len(numbers) == 1 else numbers
    made: list[Any] = []

    def f(x: Tensor) -> Tensor:
        made.append(call.with_argument(0, "input", x)())
        first: Tensor = made[0] if isinstance(made[0], Tensor) else made[0][0]
        return first

    y = with_back(x, f, lambda x, y, c: _to_winners(x, y, c, sizes))
    return y if isinstance(made[0], Tensor) else (y, *made[0][1:])
