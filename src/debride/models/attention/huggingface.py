"""Hugging Face's attention (transformers 4): ViT, DeiT and Swin, whose parts lie in two modules."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor, nn
from transformers.models.deit.modeling_deit import DeiTAttention
from transformers.models.swin.modeling_swin import SwinAttention
from transformers.models.vit.modeling_vit import ViTAttention

from debride.models.attention.registry import Heads, Opened, attend, keep, register_attention
from debride.models.attention.windows import TABLE, with_mask


def _describe(module: nn.Module, inner: str, tensors: tuple[str, ...] = ()) -> Heads | str:
    if not transformers.__version__.startswith("4."):
        return f"attention of transformers {transformers.__version__}; that of version 4 is known"
    part: Any = module.get_submodule(inner)
    return Heads(
        count=part.num_attention_heads,
        size=part.query.out_features // part.num_attention_heads,
        rows=tuple((f"{inner}.{name}", 0) for name in ("query", "key", "value")),
        output="output.dense",
        tensors=tensors,
    )


@register_attention(ViTAttention)
class OpenHFViT(Opened, ViTAttention):  # type: ignore[misc]
    """The attention of `ViTModel`; a mask of heads is refused, as heads may be gone."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie."""
        return _describe(module, "attention")

    def keep_heads(self, index: Tensor) -> None:
        """State the number of heads where it is stated."""
        self.attention.num_attention_heads = index.numel()

    def forward(
        self, hidden_states: Tensor, head_mask: None = None, output_attentions: bool = False
    ) -> Any:
        """Attend; no attention maps are returned."""
        if head_mask is not None:
            raise ValueError("heads may be gone, so that no head_mask is taken")
        part = self.attention
        q, k, v = (layer(hidden_states) for layer in (part.query, part.key, part.value))
        out = attend(q, k, v, self.num_heads, self.head_scale)
        return self.output(out, hidden_states)


@register_attention(DeiTAttention)
class OpenHFDeiT(OpenHFViT, DeiTAttention):  # type: ignore[misc]
    """The attention of `DeiTModel`, the same."""


@register_attention(SwinAttention)
class OpenHFSwin(Opened, SwinAttention):  # type: ignore[misc]
    """The attention of `SwinModel`: windows, with a table of position biases."""

    @classmethod
    def describe(cls, module: nn.Module) -> Heads | str:
        """Return where the heads lie."""
        return _describe(module, "self", (f"self.{TABLE}",))

    def keep_heads(self, index: Tensor) -> None:
        """Cut the table of position biases."""
        part = self.get_submodule("self")
        keep(part, TABLE, 1, index)
        part.num_attention_heads = index.numel()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor]:
        """Attend within each window; no attention maps are returned."""
        if head_mask is not None:
            raise ValueError("heads may be gone, so that no head_mask is taken")
        part: Any = self.get_submodule("self")
        size = hidden_states.shape[1]
        table = part.relative_position_bias_table[part.relative_position_index.view(-1)]
        bias = table.view(size, size, -1).permute(2, 0, 1)
        bias = with_mask(bias, attention_mask, hidden_states.shape[0]).to(hidden_states.dtype)
        q, k, v = (layer(hidden_states) for layer in (part.query, part.key, part.value))
        out = attend(q, k, v, self.num_heads, self.head_scale, bias)
        return (self.output(out, hidden_states),)
