"""MONAI's attention: ViT and UNETR, SwinUNETR in two and three dimensions."""

from __future__ import annotations

from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor, nn

from debride.models.attention.registry import (
    Heads,
    Opened,
    attend,
    fused_rows,
    register_attention,
)
from debride.models.attention.windows import Windows


@register_attention(SABlock)
class OpenSABlock(Opened, SABlock):  # type: ignore[misc]
    """The attention of MONAI's ViT and UNETR."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie, or why none can be cut."""
        assert isinstance(module, SABlock)
        if not module.use_combined_linear or not module.include_fc:
            return "attention without one joint projection"
        if module.causal or module.save_attn or module.rel_positional_embedding is not None:
            return "causal attention, kept attention maps or relative positions"
        return Heads(**fused_rows(module), output="out_proj")

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend; a zero in the (B, N) mask shuts a token out."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        seen = None if attn_mask is None else (attn_mask != 0)[:, None, None]
        dropout = self.drop_weights.p if self.training else 0.0
        out = attend(q, k, v, self.num_heads, self.head_scale, seen, dropout)
        out = self.out_proj(out)
        return self.drop_output(out)  # type: ignore[no-any-return]


@register_attention(WindowAttention)
class OpenMonaiWindows(Windows, WindowAttention):  # type: ignore[misc]
    """The attention of MONAI's SwinUNETR, in two and three dimensions."""
