"""timm's attention: vision transformers, Swin."""

from __future__ import annotations

from timm.layers.attention import Attention
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn

from debride.models.attention.registry import (
    Heads,
    Opened,
    attend,
    fused_rows,
    is_identity,
    register_attention,
)
from debride.models.attention.windows import Windows


@register_attention(Attention)
class OpenTimm(Opened, Attention):  # type: ignore[misc]
    """The attention of timm's vision transformers."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie, or why none can be cut."""
        assert isinstance(module, Attention)
        if not is_identity(module.norm) or getattr(module, "gate", None) is not None:
            return "heads that are normalised together or gated"
        whole = not (is_identity(module.q_norm) and is_identity(module.k_norm))
        return Heads(**fused_rows(module), output="proj", whole=whole)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Attend; a boolean mask says what is seen."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = (
            t if is_identity(norm) else norm(t.unflatten(-1, (self.num_heads, -1))).flatten(-2)
            for t, norm in ((q, self.q_norm), (k, self.k_norm))
        )
        if is_causal:
            attn_mask = x.new_ones(x.shape[1], x.shape[1]).tril().bool()
        dropout = self.attn_drop.p if self.training else 0.0
        out = self.proj(attend(q, k, v, self.num_heads, self.head_scale, attn_mask, dropout))
        return self.proj_drop(out)  # type: ignore[no-any-return]


@register_attention(WindowAttention)
class OpenTimmWindows(Windows, WindowAttention):  # type: ignore[misc]
    """The attention of timm's Swin."""
