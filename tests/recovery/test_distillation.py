"""Distances of two networks: plain loops, and the way back to the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from debride import attribute
from debride.recovery.distillation import explained, relevance_distance, soft_divergence
from planning import toys

GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 3, 4, generator=GENERATOR, dtype=torch.float64) * 2


def _softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_of_classes_in_plain_loops(temperature: float) -> None:
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        q = _softmax([value / temperature for value in student])
        p = _softmax([value / temperature for value in teacher])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = temperature**2 * total / len(STUDENT)
    found = soft_divergence(STUDENT, TEACHER, "multiclass", temperature)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("task", ["multilabel", "binary"])
def test_divergence_of_sigmoids_in_plain_loops(task: str) -> None:
    outputs = 4 if task == "multilabel" else 1
    student, teacher = STUDENT[:, :outputs], TEACHER[:, :outputs]
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        q, p = (1 / (1 + math.exp(-value / 2)) for value in (s, t))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    found = soft_divergence(student, teacher, task, 2.0)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(4 * total / len(student), abs=1e-12)


def test_the_gradient_keeps_its_size_at_high_temperatures() -> None:
    sizes = []
    for temperature in (20.0, 40.0):
        outputs = STUDENT.clone().requires_grad_()
        soft_divergence(outputs, TEACHER, "multiclass", temperature).backward()
        sizes.append(float(outputs.grad.norm()))  # type: ignore[union-attr]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def _convolutions() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    return toys.randomise(net).double().eval()


class Tokens(nn.Module):
    """Attention through PyTorch's fused kernel, whose backward has no backward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.head = nn.Linear(2, 24), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        q, k, v = (
            t.unflatten(2, (2, 4)).transpose(1, 2) for t in self.qkv(tokens).chunk(3, dim=-1)
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(nn.functional.gelu(self.norm(out)).mean(1))  # type: ignore[no-any-return]


def test_the_heatmap_is_that_of_the_relevance_pass() -> None:
    net = _convolutions()
    images = torch.randn(4, 2, 8, 8, generator=GENERATOR, dtype=torch.float64)
    outputs, heatmap = explained(net, images, differentiable=False)
    assert torch.equal(outputs, net(images))
    passed = attribute(net, images, outputs.argmax(1), method="lrp", rules="epsilon")
    torch.testing.assert_close(heatmap, passed.input.sum(1).to(heatmap), rtol=0, atol=1e-6)
    other = explained(net, images, torch.zeros(4, dtype=torch.long), differentiable=False)[1]
    passed = attribute(net, images, torch.zeros(4, dtype=torch.long), method="lrp")
    torch.testing.assert_close(other, passed.input.sum(1).to(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [_convolutions, Tokens], ids=["convolutions", "attention"])
def test_weights_are_reached_through_the_heatmap(make: type[nn.Module]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().double().eval()
    images = torch.randn(3, 2, 8, 8, generator=GENERATOR, dtype=torch.float64)
    goal = torch.randn(3, 8, 8, generator=GENERATOR, dtype=torch.float64)
    target = torch.tensor([0, 1, 2])

    def distance() -> Tensor:
        return relevance_distance(explained(net, images, target, differentiable=True)[1], goal)

    distance().backward()
    weight = next(net.parameters())
    step = 1e-6
    for place in (0, weight.numel() // 2, weight.numel() - 1):
        moved = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[place] += sign * step
                with torch.enable_grad():
                    moved.append(float(distance().detach()))
                weight.view(-1)[place] -= sign * step
        slope = (moved[0] - moved[1]) / (2 * step)
        assert float(weight.grad.view(-1)[place]) == pytest.approx(slope, abs=1e-7)  # type: ignore[union-attr]
