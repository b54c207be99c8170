"""What LXT finds at the input of a ViT-B/16: run by `test_lxt` in a process of its own.

LXT changes the classes of torchvision and timm for good, and needs packages (transformers < 5)
that Debride does not, so that it has a folder of its own on the path.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import timm.layers
import torch
import torch.nn.functional as F
from lxt.efficient import monkey_patch
from lxt.efficient.patches import layer_norm_forward, non_linear_forward, patch_method
from lxt.efficient.rules import divide_gradient
from tests.oracles.vit import LABEL, images, vit
from timm.models import vision_transformer
from torch import nn
from torchvision.models import vision_transformer as torchvision_vit


def patch(name: str) -> None:
    """Give the classes of a library LXT's rules."""
    if name == "torchvision":
        monkey_patch(torchvision_vit)  # LXT's own map: CP-LRP inside of attention
        return
    norm = timm.layers.LayerNorm
    monkey_patch(
        vision_transformer,
        {
            nn.GELU: partial(patch_method, non_linear_forward, keep_original=True),
            norm: partial(patch_method, layer_norm_forward),
        },
    )
    plain = F.scaled_dot_product_attention

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest, **more):
        """AttnLRP, as LXT's `wrap_attention_forward` has it for Hugging Face."""
        q, k, v = divide_gradient(q, 4), divide_gradient(k, 4), divide_gradient(v, 2)
        return plain(q, k, v, *rest, **more)

    F.scaled_dot_product_attention = attention


def main(name: str, target: Path) -> None:
    patch(name)
    model, x = vit(name), images().requires_grad_()
    model(x)[:, LABEL].sum().backward()
    torch.save((x * x.grad).detach(), target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
