"""Convolutions and linear layers as one kind of operator: y = W x + b."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "conv1d": F.conv1d,
    "conv2d": F.conv2d,
    "conv3d": F.conv3d,
}
_TRANSPOSED: dict[str, Callable[..., Tensor]] = {
    "conv_transpose1d": F.conv_transpose1d,
    "conv_transpose2d": F.conv_transpose2d,
    "conv_transpose3d": F.conv_transpose3d,
}
LINEAR_OPERATORS = ("linear", *_CONVOLUTIONS, *_TRANSPOSED)


@dataclass(frozen=True)
class LinearOperator:
    """A linear layer or convolution with its weights, taken off one call.

    Attributes
    ----------
    kernel : Tensor
        (out, in) for a linear layer, (out, in / groups, *kernel) for a convolution,
        (in, out / groups, *kernel) for a transposed one.
    bias : Tensor or None
        (out,), with a batch norm merged in.
    scale : Tensor or None
        (out,), what a merged batch norm multiplies each output channel with; `weight` is both
        together, made when it is asked for.
    """

    name: str
    kernel: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    output_padding: tuple[int, ...] = ()
    scale: Tensor | None = None
    border: tuple[int, ...] = ()
    """Zeros added around the input first, as `F.pad` takes them: unequal ``padding="same"``."""

    @property
    def weight(self) -> Tensor:
        """The weights with the merged batch norm."""
        return self.kernel if self.scale is None else self.kernel * self._spread(self.scale)

    def unscaled(self) -> tuple[LinearOperator, Tensor | None]:
        """Return the operator with each output divided by |scale|, and |scale|.

        Shares of R_y stay the same when a row of W and b is multiplied by a positive number. A
        rule that only shares needs no merged weights then, which are costly to make: of the batch
        norm, only the sign matters.
        """
        if self.scale is None:
            return self, None
        kernel, bias, size = self.kernel, self.bias, self.scale
        if not size.amin().item() > 0:
            # A channel that is scaled by 0 has its bias only.
            sign = size.sign()
            kernel, size = kernel * self._spread(sign), size.abs().masked_fill(sign == 0, 1)
        bias = None if bias is None else bias / size
        return replace(self, kernel=kernel, scale=None, bias=bias), size

    def _spread(self, values: Tensor) -> Tensor:
        """Give one value for each output channel the shape that broadcasts with `kernel`."""
        spread = (1,) * (self.kernel.ndim - 2)
        if not self.transposed:
            return values.view(-1, 1, *spread)
        inputs = self.kernel.shape[0] // self.groups
        rows = values.view(self.groups, 1, -1, *spread).repeat_interleave(inputs, 1)
        return rows.reshape(self.kernel.shape[0], -1, *spread)

    @property
    def transposed(self) -> bool:
        """Whether this is a transposed convolution."""
        return self.name in _TRANSPOSED

    @property
    def channel_dim(self) -> int:
        """The dimension of the output that its channels lie on."""
        return -1 if self.name == "linear" else 1

    def __call__(
        self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Apply the operator with other weights, without a bias unless one is given."""
        weight = self.weight if weight is None else weight
        if self.name == "linear":
            return F.linear(x, weight, bias)
        if self.border:
            x = F.pad(x, self.border)
        if self.transposed:
            return _TRANSPOSED[self.name](
                x, weight, bias, self.stride, self.padding, self.output_padding, self.groups,
                self.dilation,
            )  # fmt: skip
        return _CONVOLUTIONS[self.name](
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )

    def adjoint(self, c: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return Wᵀ c in the shape of `x` (whose values do not matter)."""
        weight = self.weight if weight is None else weight
        if self.name == "linear":
            return c @ weight
        if self.border:
            padded = F.pad(x, self.border)
            back = replace(self, border=()).adjoint(c, padded, weight)
            return F.pad(back, [-side for side in self.border])
        found: Tensor = torch.ops.aten.convolution_backward(
            c, x, weight, None, self.stride, self.padding, self.dilation, self.transposed,
            self.output_padding, self.groups, [True, False, False],
        )[0]  # fmt: skip
        return found

    def adjoints(
        self, c: Tensor, x: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Wᵀ c for two sets of weights, in one product where they can stand side by side."""
        if self.groups > 1 or self.transposed or self.border or self.name == "linear":
            return self.adjoint(c, x, first), self.adjoint(c, x, second)
        inputs = x.new_empty((x.shape[0], 2 * x.shape[1], *x.shape[2:]))
        both = self.adjoint(c, inputs, torch.cat([first, second], 1))
        one, other = both.chunk(2, 1)
        return one, other

    def folded(self, scale: Tensor, shift: Tensor) -> LinearOperator:
        """Return the operator followed by ``· scale + shift`` for each output channel."""
        factor = scale if self.scale is None else scale * self.scale
        bias = shift if self.bias is None else self.bias * scale + shift
        return replace(self, scale=factor, bias=bias)


def read_call(
    name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Tensor, LinearOperator]:
    """Take a call of ``F.linear``, ``F.conv*d`` or ``F.conv_transpose*d`` apart.

    Returns
    -------
    input : Tensor
    operator : LinearOperator
    """
    names = ["input", "weight", "bias"]
    if name in _CONVOLUTIONS:
        names += ["stride", "padding", "dilation", "groups"]
    elif name in _TRANSPOSED:
        names += ["stride", "padding", "output_padding", "groups", "dilation"]
    call = dict(zip(names, args, strict=False)) | kwargs
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    if name == "linear":
        return x, LinearOperator(name, weight, bias)
    spatial = weight.ndim - 2

    def numbers(key: str, default: int) -> tuple[int, ...]:
        value = call.get(key, default)
        value = (value,) if isinstance(value, int) else tuple(value)
        return value * spatial if len(value) == 1 else value

    dilation = numbers("dilation", 1)
    border: tuple[int, ...] = ()
    padding = call.get("padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        border = tuple(n for t in reversed(totals) for n in (t // 2, t - t // 2))
        padding = 0
    call["padding"] = padding
    return x, LinearOperator(
        name,
        weight,
        bias,
        stride=numbers("stride", 1),
        padding=numbers("padding", 0),
        dilation=dilation,
        groups=call.get("groups", 1),
        output_padding=numbers("output_padding", 0) if name in _TRANSPOSED else (0,) * spatial,
        border=border,
    )
