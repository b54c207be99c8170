"""torchvision's attention: Swin and Swin V2, shifted windows of a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import (
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
)

from debride.models.attention.registry import (
    Heads,
    Opened,
    attend,
    fused_rows,
    keep,
    register_attention,
)
from debride.models.attention.windows import TABLE, with_mask


@register_attention(ShiftedWindowAttention)
class OpenShifted(Opened, ShiftedWindowAttention):  # type: ignore[misc]
    """The attention of torchvision's Swin: (B, H, W, C), shifted, cut into windows."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie."""
        return Heads(**fused_rows(module), output="proj", tensors=(TABLE,))

    def keep_heads(self, index: Tensor) -> None:
        """Cut the table of position biases."""
        keep(self, TABLE, 1, index)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each window of the shifted map."""
        height, width = x.shape[1:3]
        high, wide = self.window_size
        x = F.pad(x, (0, 0, 0, -width % wide, 0, -height % high))
        padded = x.shape[1:3]
        shift = tuple(
            0 if window >= size else step
            for window, size, step in zip(self.window_size, padded, self.shift_size, strict=True)
        )
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        grid = (x.shape[0], padded[0] // high, padded[1] // wide, high, wide, -1)
        tokens = _cut(x, high, wide)
        bias = self.get_relative_position_bias().squeeze(0)
        mask = _apart(padded, self.window_size, shift, x) if any(shift) else None
        tokens = self._heads(tokens, with_mask(bias, mask, tokens.shape[0]).to(x.dtype))
        tokens = F.dropout(self.proj(tokens), self.dropout, self.training)
        x = tokens.reshape(grid).transpose(2, 3).reshape(grid[0], *padded, -1)
        if any(shift):
            x = x.roll(shift, (1, 2))
        return x[:, :height, :width].contiguous()

    def _heads(self, tokens: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        dropout = self.attention_dropout if self.training else 0.0
        return attend(q, k, v, self.num_heads, self.head_scale, bias, dropout)


@register_attention(ShiftedWindowAttentionV2)
class OpenShiftedV2(OpenShifted, ShiftedWindowAttentionV2):  # type: ignore[misc]
    """The attention of torchvision's Swin V2: cosines, scaled for each head."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie."""
        return Heads(
            **fused_rows(module), output="proj", tensors=("logit_scale",), others=("cpb_mlp.2",)
        )

    def keep_heads(self, index: Tensor) -> None:
        """Cut the scales."""
        keep(self, "logit_scale", 0, index)

    def _heads(self, tokens: Tensor, bias: Tensor) -> Tensor:
        projection = self.qkv.bias
        if projection is not None:  # keys have no bias
            q, _, v = projection.chunk(3)
            projection = torch.cat([q, torch.zeros_like(q), v])
        parts = F.linear(tokens, self.qkv.weight, projection).chunk(3, dim=-1)
        q, k = (
            F.normalize(part.reshape(*part.shape[:2], self.num_heads, -1), dim=-1)
            for part in parts[:2]
        )
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        q = (q * scale.reshape(-1, 1)).flatten(2)
        dropout = self.attention_dropout if self.training else 0.0
        return attend(q, k.flatten(2), parts[2], self.num_heads, 1.0, bias, dropout)


def _cut(x: Tensor, high: int, wide: int) -> Tensor:
    """Cut (B, H, W, C) into windows (B · nW, high · wide, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // high, high, width // wide, wide, channels)
    return x.transpose(2, 3).reshape(-1, high * wide, channels)


def _apart(padded: tuple[int, ...], window: list[int], shift: tuple[int, ...], x: Tensor) -> Tensor:
    """Return (nW, N, N), -100 between tokens that only the shift has brought together."""
    regions = []
    for size, span, step in zip(padded, window, shift, strict=True):
        place = torch.arange(size, device=x.device)
        crossed = (place >= size - span).int() + (place >= size - step).int()
        regions.append(crossed if step else torch.zeros_like(crossed))
    region = (3 * regions[0][:, None] + regions[1]).reshape(1, *padded, 1)
    region = _cut(region, *window).squeeze(-1)
    other = region[:, :, None] != region[:, None, :]
    return torch.zeros_like(other, dtype=x.dtype).masked_fill(other, -100.0)
