"""Tiny data for a tiny classifier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from debride.evidence.explanations import Explainer

from .tiny_classifier import gradient_times_input


@pytest.fixture
def explainer() -> Explainer:
    return gradient_times_input


@pytest.fixture
def images() -> Tensor:
    return torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(60) % 3


@pytest.fixture
def batches(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(16), labels.split(16), strict=True))
