"""Parameter randomisation (Adebayo et al. 2018): a heatmap must be about the weights."""

import pytest
import torch
from torch import nn

from debride.evidence.explanations import spearman
from debride.relevance import attribute


def blobs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a wide blob (class 0) or a narrow one (class 1) somewhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    centre = torch.randint(4, 12, (count, 2, 1, 1), generator=generator)
    place = torch.arange(16)
    distance = (place[None, :, None] - centre[:, 0]) ** 2 + (place - centre[:, 1]) ** 2
    width = torch.where(labels == 0, 6.0, 1.0)[:, None, None]
    images = (-distance / width).exp() * 3 / width.sqrt()
    return (images + 0.3 * torch.randn(images.shape, generator=generator))[:, None], labels


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Linear(72, 2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    images, labels = blobs(128)
    torch.manual_seed(0)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    assert (model(images).argmax(1) == labels).float().mean() > 0.9
    return model.eval(), images[:16], labels[:16]


@pytest.mark.parametrize("method", ["lrp", "ig", "smoothgrad"])
def test_heatmaps_of_random_weights_are_not_those_of_trained_ones(trained, method):
    model, images, labels = trained
    trained_maps = attribute(model, images, labels, method=method).input[:, 0]
    again = attribute(model, images, labels, method=method).input[:, 0]
    assert spearman(trained_maps, again).min() == 1
    alike = []
    for seed in range(3):
        torch.manual_seed(100 + seed)
        random_maps = attribute(network().eval(), images, labels, method=method).input[:, 0]
        alike.append(spearman(trained_maps, random_maps).abs().mean())
    assert torch.stack(alike).mean() < 0.5
