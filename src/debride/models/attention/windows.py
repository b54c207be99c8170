"""Attention within windows, with a table of position biases for each head."""

from __future__ import annotations

from torch import Tensor, nn

from debride.models.attention.registry import Heads, Opened, attend, fused_rows, keep

TABLE = "relative_position_bias_table"


def with_mask(bias: Tensor, mask: Tensor | None, windows: int) -> Tensor:
    """Add a (nW, N, N) mask to a (heads, N, N) bias, for all windows of the batch."""
    if mask is None:
        return bias.unsqueeze(0)
    joint = bias.unsqueeze(0) + mask.unsqueeze(1)
    return joint.repeat(windows // mask.shape[0], 1, 1, 1)


class Windows(Opened):
    """What timm's and MONAI's windows share: (B · nW, N, C) tokens, and a table of biases."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie."""
        return Heads(**fused_rows(module), output="proj", tensors=(TABLE,))

    def keep_heads(self, index: Tensor) -> None:
        """Cut the table of position biases."""
        assert isinstance(self, nn.Module)
        keep(self, TABLE, 1, index)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each window."""
        size = x.shape[1]
        index = self.relative_position_index[:size, :size].reshape(-1)  # type: ignore[attr-defined]
        table = self.relative_position_bias_table[index]  # type: ignore[attr-defined]
        bias = table.reshape(size, size, -1).permute(2, 0, 1)
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # type: ignore[attr-defined]
        bias = with_mask(bias, mask, x.shape[0]).to(q.dtype)
        dropout = self.attn_drop.p if self.training else 0.0  # type: ignore[attr-defined]
        out = attend(q, k, v, self.num_heads, self.head_scale, bias, dropout)
        return self.proj_drop(self.proj(out))  # type: ignore[attr-defined, no-any-return]
