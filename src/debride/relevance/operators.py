"""What each torch function does with relevance.

Linear operators are autograd's own; every other one has a handler here, in `norms` or in
`attention`. A handler takes the pass and the call and returns the call's result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from debride.relevance.blocks import blocks
from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.linear import LINEAR_OPERATORS, read_call

# Movement: every value of the result is one of x.
_MOVEMENTS = (
    "view reshape view_as reshape_as permute transpose t swapaxes swapdims movedim moveaxis "
    "squeeze unsqueeze flatten unflatten ravel expand expand_as repeat repeat_interleave tile "
    "broadcast_to getitem select narrow chunk split split_with_sizes tensor_split unbind "
    "index_select gather take_along_dim take masked_select roll flip fliplr flipud rot90 unfold "
    "fold contiguous clone to type_as float double half bfloat16 cpu cuda alias as_tensor asarray "
    "as_strided broadcast_tensors hsplit vsplit dsplit "
    "nan_to_num atleast_1d atleast_2d atleast_3d diagonal tril triu identity "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout"
).split()

# y is linear in x without a constant, the winner's, or grows with x as it does (norms).
_LINEAR = (
    "cumsum neg negative positive interpolate upsample pixel_shuffle pixel_unshuffle "
    "channel_shuffle grid_sample boolean_dispatch fn adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d max_unpool1d max_unpool2d max_unpool3d amax amin max min maximum "
    "minimum topk sort median norm vector_norm linalg_norm linalg_vector_norm std real"
).split()

# f(0) = 0: c is multiplied by the secant slope f(x) / x. Others are split into f(x) − f(0), which
# passes, and f(0), a constant that absorbs.
_ACTIVATIONS = (
    "gelu silu mish elu selu celu leaky_relu rrelu hardswish tanhshrink softsign hardtanh relu6 "
    "hardshrink softshrink threshold abs square sqrt exp expm1 log1p softplus logsigmoid sin "
    "clamp clip clamp_min clamp_max pow erf sinh atan tan asinh"
).split()

_GATES = ("sigmoid", "hardsigmoid", "tanh")


@register_operator(*_MOVEMENTS)
def movement(relevance: RelevancePass, call: Call) -> Any:
    """Movement (and random drops, which are off): autograd's own; a gate stays a gate."""
    result = call()
    if isinstance(result, Tensor):
        kind = relevance.gate_kind(call.argument(0, "input"))
        if kind is not None:
            relevance.mark_gate(result, kind)
    return result


@register_operator(*_LINEAR)
def as_gradient(_: RelevancePass, call: Call) -> Any:
    """Linear operators and winners: the gradient is the rule."""
    return call()


@register_operator("relu", "relu_")
def relu(relevance: RelevancePass, call: Call) -> Tensor:
    """ReLU: the gradient is the rule."""
    return relevance.mark_unsigned(call())


@register_operator(*LINEAR_OPERATORS)
def linear(relevance: RelevancePass, call: Call) -> Any:
    """Convolutions and linear layers: by the rule set."""
    x, operator = read_call(call.name, call.args, call.kwargs)
    if operator.kernel.requires_grad or not x.requires_grad:
        # Weights that depend on the input (dynamic convolution) are a product of activations.
        return product(relevance, call)
    return relevance.linear(x, operator)


# -- products ----------------------------------------------------------------------------------


@register_operator("matmul", "bmm", "mm", "mv", "dot", "einsum", "bilinear", "kron", "vdot",
                   "outer", "inner", "tensordot", "__rmatmul__")  # fmt: skip
def product(relevance: RelevancePass, call: Call) -> Any:
    """Products: linear in one activation; of two activations, half of R to each."""
    attention = relevance.rules.attention
    if attention == "cp":
        call = _replaced(call, lambda v: v.detach() if relevance.gate_kind(v) == "softmax" else v)
    factors = [value for value in _tensors((call.args, call.kwargs)) if value.requires_grad]
    if len(factors) < 2:
        return call()
    if attention == "collapse":
        call = _replaced(
            call, lambda v: _Collapse.apply(v) if v.requires_grad and v.ndim > 1 else v
        )
    if call.name in ("matmul", "bmm") and len(call.args) == 2:
        a, b = call.args
        if a.ndim == b.ndim > 1 and a.shape[:-2] == b.shape[:-2]:
            y: Tensor = _Product.apply(a, b)
            return relevance.remade(y, torch.matmul, a, b)
    return halved(call())


class _Product(torch.autograd.Function):
    """y = a b, half of R to each; kept are the factors, not the copies that the product makes."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.matmul(a, b)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        if c.numel() < a.numel() + b.numel():
            c = c / 2
            return torch.matmul(c, b.mT), torch.matmul(a.mT, c)
        return torch.matmul(c, b.mT).div_(2), torch.matmul(a.mT, c).div_(2)


def _replaced(call: Call, change: Callable[[Tensor], Tensor]) -> Call:
    """Return the call with every tensor among its arguments changed."""

    def visit(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        return type(value)(visit(v) for v in value) if type(value) in (tuple, list) else value

    kwargs = {key: visit(value) for key, value in call.kwargs.items()}
    return Call(call.name, call.func, visit(call.args), kwargs)


class _Collapse(torch.autograd.Function):
    """The identity; back, each matrix's total R is shared by size: R_a = |a| ΣR / Σ|a|."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a.view_as(a)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        total = (a * c).sum((-2, -1), keepdim=True)
        size = a.abs().sum((-2, -1), keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)
        shared: Tensor = a.sign() * (total / size)
        return shared


@register_operator("mul")
def multiply(relevance: RelevancePass, call: Call) -> Any:
    """Element-wise products: by a constant passes; gate × signal goes to the signal."""
    a, b = call.args[0], call.argument(1, "other")
    if not (_is_active(a) and _is_active(b)):
        return call()
    gate = _gate_of(relevance, a, b)
    if gate is None or relevance.rules.gates == "half":
        return halved(call())
    parts = tuple(v.detach() if v is gate else v for v in (a, b))
    return call.func(*parts)


def _gate_of(relevance: RelevancePass, a: Tensor, b: Tensor) -> Tensor | None:
    """Return which factor is a gate: squashed, or broadcast over space."""
    marked = [v for v in (a, b) if relevance.gate_kind(v) is not None]
    if len(marked) == 1:
        return marked[0]
    if a.shape != b.shape and a.ndim == b.ndim and a.ndim > 2:
        return a if a.numel() < b.numel() else b
    return None


@register_operator("rsqrt", "reciprocal")
def scale(_: RelevancePass, call: Call) -> Any:
    """Inverse powers of an activation: a scale, so constant."""
    return call().detach()


@register_operator("div", "__rdiv__", "__rtruediv__", "rdiv")
def divide(_: RelevancePass, call: Call) -> Any:
    """Divisions: the divisor is a scale, so constant where it divides an activation."""
    if call.name != "div":
        # number / activation: all that depends on the input is a scale.
        return call.func(call.args[0].detach(), *call.args[1:])
    a, b = call.args[0], call.argument(1, "other")
    if isinstance(b, Tensor) and b.requires_grad:
        return call.with_argument(1, "other", b.detach())()
    return call() if _is_active(a) else a / b


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> Tensor:
        return c / 2


def halved(y: Tensor) -> Tensor:
    """Return `y` with its c halved on the way back: each of two factors gets half of R."""
    result: Tensor = _Halve.apply(y)
    return result


# -- activations -------------------------------------------------------------------------------


class _Secant(torch.autograd.Function):
    """y = f(x); c_x = c_y ⊙ slope(x), which is (f(x) − f(0)) / x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return f(x)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        # Cheap to make again, and as large as x to keep.
        return ctx.slope(x.detach()).mul_(c), None, None


def _secant_slope(x: Tensor, f: Callable[[Tensor], Tensor], offset: float) -> Tensor:
    """Return (f(x) − f(0)) / x, the derivative at 0 where x is 0."""
    slope = (f(x) - offset if offset else f(x)) / x
    at_zero = x == 0
    if bool(at_zero.any()):
        with torch.enable_grad():
            zero = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
            (tangent,) = torch.autograd.grad(f(zero), zero)
        slope = torch.where(at_zero, torch.nan_to_num(tangent, 0.0, 0.0, 0.0), slope)
    return slope


def _gelu_slope(x: Tensor, approximate: str = "none") -> Tensor:
    """Return GELU(x) / x: the normal distribution function, or what stands for it."""
    slope = torch.empty_like(x)
    for block in blocks(x):
        part, out = x[block.index], slope[block.index]
        if approximate == "tanh":
            torch.mul(part, part, out=out).mul_(0.044715).add_(1).mul_(part)
            out.mul_(math.sqrt(2 / math.pi)).tanh_()
        else:
            torch.mul(part, math.sqrt(0.5), out=out).erf_()
        out.add_(1).div_(2)
    return slope


# x ⊙ slope(x): known without a division.
_SLOPES: dict[str, Callable[..., Tensor]] = {
    "gelu": _gelu_slope,
    "silu": lambda x, *_, **__: torch.sigmoid(x),
    "hardswish": lambda x, *_, **__: F.hardsigmoid(x),
}


def _secant(relevance: RelevancePass, call: Call) -> Tensor:
    x = call.argument(0, "input")
    relevance.activated(x, call.name)
    rest, func = call.args[1:], call.func
    kwargs = {key: value for key, value in call.kwargs.items() if key != "input"}

    def f(value: Tensor) -> Tensor:
        result: Tensor = func(value, *rest, **kwargs)
        return result

    offset = 0.0
    if call.name in _SLOPES:

        def slope(value: Tensor) -> Tensor:
            return _SLOPES[call.name](value, *rest, **kwargs)

    else:
        offset = float(f(torch.zeros((), dtype=x.dtype, device=x.device)))

        def slope(value: Tensor) -> Tensor:
            return _secant_slope(value, f, offset)

    y: Tensor = _Secant.apply(x, f, slope)
    if offset:
        relevance.ledger.watch(relevance.where(), y, offset)
    return relevance.remade(y, f, x)


@register_operator(*_ACTIVATIONS)
def activation(relevance: RelevancePass, call: Call) -> Any:
    """Activations: R passes unchanged, less what f(0) absorbs."""
    power = call.argument(1, "exponent") if call.name == "pow" else None
    if isinstance(power, int | float) and power < 0:
        return scale(relevance, call)
    return _secant(relevance, call)


@register_operator(*_GATES)
def gate(relevance: RelevancePass, call: Call) -> Any:
    """Squashing functions: as activations, and remembered as possible gates."""
    return relevance.mark_gate(_secant(relevance, call), call.name)


@register_operator("prelu")
def prelu(_: RelevancePass, call: Call) -> Any:
    """PReLU: f(0) = 0 and slopes are constant on each side, so the gradient is the secant."""
    return call()


def _is_active(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
