"""`torch.nn.MultiheadAttention` with any number of heads."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from debride.models.attention.registry import (
    Heads,
    Opened,
    as_bias,
    attend,
    keep,
    register_attention,
)


@register_attention(nn.MultiheadAttention)
class OpenMultihead(Opened, nn.MultiheadAttention):
    """Projects to heads · size features, whatever the width of what it reads."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie, or why none can be cut."""
        assert isinstance(module, nn.MultiheadAttention)
        if not module._qkv_same_embed_dim and not isinstance(module, Opened):
            return "queries, keys and values of different widths"
        if module.bias_k is not None or module.add_zero_attn:
            return "attention with an added token"
        width = module.in_proj_weight.shape[0] // 3
        return Heads(
            count=module.num_heads,
            size=width // module.num_heads,
            rows=(("", 0), ("", width), ("", 2 * width)),
            output="out_proj",
            tensors=("in_proj_weight", "in_proj_bias"),
            reads=module.in_proj_weight.shape[1],
        )

    def keep_rows(self, index: Tensor) -> None:
        """Cut the projections of queries, keys and values."""
        keep(self, "in_proj_weight", 0, index)
        keep(self, "in_proj_bias", 0, index)
        self._leave_fused_path()

    def keep_inputs(self, index: Tensor) -> None:
        """Cut what queries, keys and values are made of."""
        keep(self, "in_proj_weight", 1, index)
        self._leave_fused_path()

    def _leave_fused_path(self) -> None:
        # That of torch's encoder layers knows heads of one size only, as wide as the stream.
        self._qkv_same_embed_dim = False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend; no weights are returned, as heads that are gone have none."""
        if single := query.ndim == 2:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases))  # noqa: B905
        bias = None
        if attn_mask is not None:
            bias = as_bias(attn_mask, q)
            if bias.ndim == 3:
                bias = bias.reshape(-1, self.num_heads, *bias.shape[1:])
        if key_padding_mask is not None:
            padding = as_bias(key_padding_mask, q).reshape(k.shape[0], 1, 1, -1)
            bias = padding if bias is None else bias + padding
        dropout = self.dropout if self.training else 0.0
        out = self.out_proj(attend(q, k, v, self.num_heads, self.head_scale, bias, dropout))
        if single:
            return out.squeeze(0), None
        return (out if self.batch_first else out.transpose(0, 1)), None
