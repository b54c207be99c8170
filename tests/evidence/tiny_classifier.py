"""A classifier of a few dozen weights, and an explainer that needs no library."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """A convolution, a batch norm, dropout and a linear layer."""

    def __init__(self, outputs: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)
            self.fc = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.conv(x)).relu())
        return self.fc(hidden.mean(dim=(2, 3)) * 10)


def gradient_times_input(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    outputs = model(images)
    if outputs.shape[1] == 1:  # speaks for class 1; its negative for class 0
        outputs = torch.cat([-outputs, outputs], dim=1)
    chosen = outputs.gather(1, targets[:, None])
    return images * torch.autograd.grad(chosen.sum(), images)[0]
