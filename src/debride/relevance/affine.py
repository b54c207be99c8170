"""Batch norm in evaluation mode as the affine map that it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Affine(torch.autograd.Function):
    """y = x · scale + shift along the channels; c_x = c_y · scale.

    Not PyTorch's own backward: on a CPU that of a single image takes a gradient whose channels
    come last (as after ``flatten(2).transpose(1, 2)``) for one whose channels come second.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        output: Callable[[], Tensor],
        enter: Callable[[Tensor], None] | None,
    ) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.enter = enter
        return output()

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        if ctx.enter is not None and not torch.is_grad_enabled():  # see `on_relevance`
            ctx.enter(c)
        return c * scale.to(c.dtype).view(1, -1, *[1] * (c.ndim - 2)), None, None, None


def affine(
    x: Tensor,
    scale: Tensor,
    output: Callable[[], Tensor],
    enter: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Return `output()`: x, (B, C) or (B, C, ...), times `scale` (C,) plus a constant.

    `enter` meets c of y, as with `on_relevance`, whose hook costs more.
    """
    y: Tensor = _Affine.apply(x, scale, output, enter)
    return y
