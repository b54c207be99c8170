"""ViT-B/16 of torchvision and of timm, with random weights, norms and heads."""

import timm
import torch
import torchvision
from torch import Tensor, nn

LABEL = 3


def vit(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "torchvision":
        model = torchvision.models.vit_b_16(num_classes=10)
    else:
        model = timm.create_model("vit_base_patch16_224", num_classes=10)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:  # biases, and weights of norms
                centre = 1.0 if key.endswith("weight") else 0.0
                parameter.normal_(centre, 0.2, generator=generator)
            elif not parameter.any():
                parameter.normal_(0, 0.02, generator=generator)
    return model.double().eval().requires_grad_(False)


def images() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2)).double()
