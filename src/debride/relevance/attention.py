"""Softmax and attention, taken apart into products and a softmax (Achtibat et al. 2024)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from debride.relevance.blocks import inner
from debride.relevance.calls import Call
from debride.relevance.engine import RelevancePass, register_operator
from debride.relevance.identity import log_sum, passed_back, passed_softmax, scores_again
from debride.relevance.ledger import Account


class _Softmax(torch.autograd.Function):
    """R_x = x ⊙ (R_p − p · ΣR_p): in gradient form, softmax's own gradient.

    Σ R_p − Σ R_x does not reach the scores: it is entered as the softmax remainder.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, account: Account) -> Tensor:
        p = torch.softmax(x, dim)
        ctx.save_for_backward(p)
        ctx.dim, ctx.account, ctx.dtype = dim, account, x.dtype
        return p

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        (p,) = ctx.saved_tensors
        back = torch._softmax_backward_data(c, p, ctx.dim, ctx.dtype)
        # c of the scores sums to 0 along `dim`, so that log p stands for the scores: they differ
        # by a constant. Where p is 0 so is its relevance, also for a masked score of −inf.
        scores = p.clamp(min=torch.finfo(p.dtype).tiny).log_()
        ctx.account.remain(inner(p, c) - inner(scores, back))
        return back, None, None


@register_operator("softmax")
def softmax(relevance: RelevancePass, call: Call) -> Tensor:
    """Softmax over scores, also marked as a possible gate."""
    x, dim = call.argument(0, "input"), call.argument(1, "dim", -1)
    dtype = call.kwargs.get("dtype")
    if dtype is not None:
        x = x.to(dtype)
    dim = -1 if dim is None else dim
    relevance.activated(x, "softmax")
    account = Account(relevance.ledger, relevance.where())
    if relevance.rules.attention in ("pass", "collapse"):
        p = passed_softmax(x, dim, account)
    else:
        p = _Softmax.apply(x, dim, account)
    return relevance.mark_gate(p, "softmax")


class _Attention(torch.autograd.Function):
    """Attention that keeps Q, K and V only: what stands between is made again in the backward.

    The attention weights, which are the largest tensors of a transformer, live for one layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        causal: bool,
        scale: float,
        relevance: RelevancePass,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.causal, ctx.scale, ctx.relevance = causal, scale, relevance
        ctx.place = relevance.where()
        factors = query.detach(), key.detach(), value.detach()
        return _taken_apart(relevance, *factors, mask, causal, scale)

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        back = _whole if _is_plain(ctx) else _by_parts
        return *back(ctx, c), None, None, None, None


def _is_plain(ctx: Any) -> bool:
    """Tell whether all of Q, K and V depend on the image, as many of each, and no mask on top."""
    query, key, value, mask = ctx.saved_tensors
    lead = query.shape[:-2]
    return (
        ctx.relevance.rules.attention in ("attnlrp", "pass")
        and all(ctx.needs_input_grad[:3])
        and key.shape[:-2] == value.shape[:-2] == lead
        and (mask is None or (mask.dtype == torch.bool and _within(mask.shape[:-2], lead)))
    )


def _within(shape: torch.Size, whole: torch.Size) -> bool:
    """Tell whether a shape can be broadcast to another without making that larger."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(n in (1, m) for n, m in pairs)


def _whole(ctx: Any, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return c of Q, K and V where no mask takes a share: the rules of all parts written out."""
    query, key, value, mask = ctx.saved_tensors
    account = Account(ctx.relevance.ledger, ctx.place)
    scaled = query * ctx.scale
    scores = torch.matmul(scaled, key.mT)
    mask = _causal(scores) if ctx.causal else mask
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    weights, half = torch.softmax(scores, -1), c / 2
    to_value = torch.matmul(weights.mT, half)
    to_weights = torch.matmul(half, value.mT)
    if ctx.relevance.rules.attention == "pass":
        scores = scores_again(weights, log_sum(scores, weights, -1))
        to_scores, enter = passed_back(scores, weights, to_weights), account.lose
    else:
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        enter = account.remain
    to_query = torch.matmul(to_scores, key).mul_(ctx.scale / 2)
    to_key = torch.matmul(scaled.mT, to_scores).mT.div_(2)
    # V has half of R and so had the weights; Q and K share what the scores had.
    enter(inner(value, to_value) - inner(query, to_query) - inner(key, to_key))
    return to_query, to_key, to_value


def _by_parts(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
    """Return c of Q, K and V by a pass through each part."""
    *factors, mask = ctx.saved_tensors
    ledger, needed = ctx.relevance.ledger, ctx.needs_input_grad[:3]
    factors = [f.detach().requires_grad_(n) for f, n in zip(factors, needed, strict=True)]
    with torch.enable_grad(), ctx.relevance.standing_in(ctx.place), ledger.apart() as leaves:
        query, key, value = factors
        result = _taken_apart(ctx.relevance, query, key, value, mask, ctx.causal, ctx.scale)
    active = [factor for factor in factors if factor.requires_grad]
    found = torch.autograd.grad(
        result, [*active, *(leaf for _, leaf in leaves)], c, allow_unused=True
    )
    ledger.settle(found[len(active) :], leaves)
    back = iter(found)
    return tuple(next(back) if n else None for n in needed)


@register_operator("scaled_dot_product_attention")
def attention(relevance: RelevancePass, call: Call) -> Tensor:
    """Attention: q·kᵀ, softmax and ·v, each by its own rule; masks are constants."""
    query, key, value = (call.argument(i, n) for i, n in enumerate(("query", "key", "value")))
    mask, causal = call.argument(3, "attn_mask"), call.argument(5, "is_causal", False)
    scale = call.kwargs.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if call.kwargs.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    if not relevance.fuses or (mask is not None and mask.requires_grad):
        return _taken_apart(relevance, query, key, value, mask, causal, scale)
    result: Tensor = _Attention.apply(query, key, value, mask, causal, scale, relevance)
    return result


def _taken_apart(
    relevance: RelevancePass,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> Tensor:
    scores = relevance.run(torch.matmul, query * scale, key.transpose(-2, -1))
    mask = _causal(scores) if causal else mask
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = relevance.run(torch.add, scores, mask)
    weights = relevance.run(F.softmax, scores, dim=-1)
    result: Tensor = relevance.run(torch.matmul, weights, value)
    return result


def _causal(scores: Tensor) -> Tensor:
    """Return where a query may read a key."""
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()


_HEAD = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v "
    "add_zero_attn dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights "
    "attn_mask use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k "
    "static_v average_attn_weights is_causal"
).split()


@register_operator("multi_head_attention_forward")
def multi_head_attention(relevance: RelevancePass, call: Call) -> tuple[Tensor, None]:
    """`torch.nn.MultiheadAttention`, one call: projections, attention, projection."""
    given = {name: None for name in _HEAD} | dict(zip(_HEAD, call.args, strict=False))
    given |= call.kwargs
    query, key, value = given["query"], given["key"], given["value"]
    if query.ndim == 2:
        parts = {n: given[n].unsqueeze(1) for n in ("query", "key", "value")}
        output, _ = multi_head_attention(relevance, Call(call.name, call.func, (), given | parts))
        return output.squeeze(1), None
    # The images come first here, as everywhere: (L, B, E) is what `MultiheadAttention` hands over.
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    batch, length, width = query.shape
    heads = given["num_heads"]
    if given["use_separate_proj_weight"]:
        weights = [given[f"{n}_proj_weight"] for n in "qkv"]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    bias = given["in_proj_bias"]
    biases = [None] * 3 if bias is None else list(bias.chunk(3))
    q, k, v = (
        relevance.run(F.linear, x, w, b)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    for name in ("k", "v"):
        extra = given[f"bias_{name}"]
        if extra is not None:
            extra = extra.expand(batch, 1, -1)
            joined = relevance.run(torch.cat, [k if name == "k" else v, extra], 1)
            k, v = (joined, v) if name == "k" else (k, joined)

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    mask = _joint_mask(given["attn_mask"], given["key_padding_mask"], batch, heads, q.dtype)
    if mask is not None and k.shape[-2] > mask.shape[-1]:
        mask = F.pad(mask, (0, k.shape[-2] - mask.shape[-1]))
    out = relevance.run(F.scaled_dot_product_attention, q, k, v, mask)
    out = out.transpose(1, 2).reshape(batch, length, width)
    out = relevance.run(F.linear, out, given["out_proj_weight"], given["out_proj_bias"])
    return out.transpose(0, 1), None


def _joint_mask(
    attention: Tensor | None, padding: Tensor | None, batch: int, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Add the two masks of `MultiheadAttention` as scores: (B, heads, L, S) or broadcast to it."""

    def scores(mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
            mask, float("-inf")
        )

    joint = None
    if attention is not None:
        joint = scores(attention)
        if joint.ndim == 3:
            joint = joint.view(batch, heads, *joint.shape[1:])
    if padding is not None:
        padded = scores(padding)[:, None, None, :]
        joint = padded if joint is None else joint + padded
    return joint
