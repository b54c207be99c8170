"""Norms: themselves, with the scale statistics held constant; means and biases are kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from debride.relevance.affine import affine
from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.identity import passed
from debride.relevance.ledger import Account, on_relevance


@register_operator("batch_norm")
def batch_norm(relevance: RelevancePass, call: Call) -> Any:
    """Batch norm in evaluation mode: merged with what feeds it, else affine."""
    if relevance.rules.batch_norm == "identity":
        return _unchanged(relevance, call)
    x = call.argument(0, "input")
    mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    training, eps = call.argument(5, "training", False), call.argument(7, "eps", 1e-5)
    if training or mean is None or variance is None:
        return _normalise(relevance, x, [0, *range(2, x.ndim)], weight, bias, eps)
    scale = (variance + eps).rsqrt_()
    if weight is not None:
        scale.mul_(weight)
    shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
    merged = relevance.fold(x, scale, shift, call)
    if merged is not None:
        return merged
    ledger, where = relevance.ledger, relevance.where()
    y = affine(x, scale, call, lambda c: ledger.absorb_along(where, c, shift, 1))
    relevance.made(y)
    return y


@register_operator("instance_norm")
def instance_norm(relevance: RelevancePass, call: Call) -> Any:
    """Instance norm: each image's channel by its own statistics, or the running ones."""
    if relevance.rules.norms == "identity":
        return _unchanged(relevance, call)
    x = call.argument(0, "input")
    if not call.argument(5, "use_input_stats", True):
        args = [call.argument(i, n) for i, n in enumerate(("input", "running_mean", "running_var",
                                                           "weight", "bias"))]  # fmt: skip
        eps = call.argument(7, "eps", 1e-5)
        return relevance.run(torch.nn.functional.batch_norm, *args, False, 0.0, eps)
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    eps = call.argument(7, "eps", 1e-5)
    return _normalise(relevance, x, list(range(2, x.ndim)), weight, bias, eps)


@register_operator("group_norm")
def group_norm(relevance: RelevancePass, call: Call) -> Any:
    """Group norm: each image's groups of channels by their own statistics."""
    if relevance.rules.norms == "identity":
        return _unchanged(relevance, call)
    x, groups = call.argument(0, "input"), call.argument(1, "num_groups")
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    eps = call.argument(4, "eps", 1e-5)
    grouped = x.reshape(x.shape[0], groups, -1)
    y = _normalise(relevance, grouped, [2], None, None, eps).reshape(x.shape)
    return _affine(relevance, y, weight, bias)


def _unchanged(relevance: RelevancePass, call: Call) -> Tensor:
    """Let R pass as it is."""
    x = call.argument(0, "input")
    account = Account(relevance.ledger, relevance.where())
    return passed(x, lambda x: call.with_argument(0, "input", x)(), account)


def _normalise(
    relevance: RelevancePass,
    x: Tensor,
    dims: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    y: Tensor = _Normalise.apply(x, dims, eps)
    return _affine(relevance, y, weight, bias)


class _Normalise(torch.autograd.Function):
    """y = (x − mean) · rstd over some dimensions; c_x = rstd · c less its mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: list[int], eps: float) -> Tensor:
        variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        rstd = variance.add_(eps).rsqrt_()
        ctx.save_for_backward(rstd)
        ctx.dims = dims
        return (x - mean).mul_(rstd)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (rstd,) = ctx.saved_tensors
        back = c * rstd
        return back.sub_(back.mean(ctx.dims, keepdim=True)), None, None


def _affine(
    relevance: RelevancePass, y: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    spread = (1, -1) + (1,) * (y.ndim - 2)
    if weight is not None:
        y = y * weight.view(spread)
    if bias is not None:
        y = y + bias.view(spread)
        relevance.ledger.watch(relevance.where(), y, bias)
    return y


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: tuple[int, ...],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        y, _, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(rstd)
        ctx.weight, ctx.dims = weight, tuple(range(-len(shape), 0))
        return y

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (rstd,) = ctx.saved_tensors
        back = c * rstd
        if ctx.weight is not None:
            back.mul_(ctx.weight)
        return back.sub_(back.mean(ctx.dims, keepdim=True)), None, None, None, None


@register_operator("layer_norm")
def layer_norm(relevance: RelevancePass, call: Call) -> Any:
    """Layer norm: the standard deviation is a constant; the bias absorbs (Ali et al. 2022)."""
    if relevance.rules.norms == "identity":
        return _unchanged(relevance, call)
    x, shape = call.argument(0, "input"), tuple(call.argument(1, "normalized_shape"))
    weight, bias = call.argument(2, "weight"), call.argument(3, "bias")
    eps = call.argument(4, "eps", 1e-5)
    y: Tensor = _LayerNorm.apply(x, shape, weight, bias, eps)
    if bias is not None:
        ledger, where = relevance.ledger, relevance.where()
        lead = tuple(range(y.ndim - len(shape)))
        on_relevance(y, lambda c: ledger.absorb(where, (c.sum(lead) * bias).sum()))
    return relevance.remade(y, lambda x: torch.layer_norm(x, shape, weight, bias, eps), x)


@register_operator("rms_norm")
def rms_norm(relevance: RelevancePass, call: Call) -> Any:
    """RMS norm: the root mean square is a constant."""
    if relevance.rules.norms == "identity":
        return _unchanged(relevance, call)
    x, shape = call.argument(0, "input"), call.argument(1, "normalized_shape")
    weight, eps = call.argument(2, "weight"), call.argument(3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(shape), 0))
    y = x * (x.detach().pow(2).mean(dims, keepdim=True) + eps).rsqrt()
    return y if weight is None else y * weight


@register_operator("normalize", "local_response_norm")
def scaled(_: RelevancePass, call: Call) -> Any:
    """Divisions by an own norm: the norm is a constant."""
    x = call.argument(0, "input")
    plain = call.with_argument(0, "input", x.detach())
    if call.name == "normalize":
        p, dim = call.argument(1, "p", 2.0), call.argument(2, "dim", 1)
        size = x.detach().norm(p, dim, keepdim=True).clamp_min(call.argument(3, "eps", 1e-12))
        return x / size
    # y = x · scale(x): the scale is what the operator made of x, or 1 where x is 0.
    scale = torch.where(x == 0, torch.ones_like(x), plain() / x.detach())
    return x * scale.detach()
