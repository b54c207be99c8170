"""Taylor and Hessian criteria against numbers from one unit, one image, one weight at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from debride import score
from debride.errors import DebrideError
from planning import toys

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(3, 1, 8, 8, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])


class Gated(nn.Module):
    """The toy network with a factor on every channel of its first layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        net = self.net
        hidden = net.norm(net.conv(x)) * gate[:, None, None]
        hidden = F.max_pool2d(hidden.relu(), 2).flatten(1)
        return net.head(net.hidden_norm(net.hidden(hidden)).relu())


def slope(loss: Callable[[Tensor], Tensor], unit: int, step: float = 1e-6) -> float:
    """Give the derivative of a loss by one channel's gate, by central difference."""
    up, down = torch.ones(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    up[unit] += step
    down[unit] -= step
    with torch.no_grad():
        return float(loss(up) - loss(down)) / (2 * step)


@pytest.mark.parametrize(("aggregate", "power"), [("square", 2), ("abs", 1)])
def test_taylor_is_the_slope_of_the_loss_by_a_gate_on_the_channel(
    aggregate: str, power: int
) -> None:
    model = toys.randomise(toys.Flat()).double()
    found = score(model, [(IMAGES, LABELS)], criterion="taylor", aggregate=aggregate)
    gated = Gated(model)
    expected = [
        sum(
            abs(
                slope(
                    lambda gate, i=i: F.cross_entropy(
                        gated(IMAGES[i : i + 1], gate), LABELS[i : i + 1]
                    ),
                    unit,
                )
            )
            ** power
            for i in range(3)
        )
        for unit in range(6)
    ]
    assert found.values["conv"].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_taylor_squares_unless_told_otherwise() -> None:
    model = toys.randomise(toys.Flat()).double()
    one = score(model, [(IMAGES, LABELS)], criterion="taylor").values["conv"]
    two = score(model, [(IMAGES, LABELS)], criterion="taylor", aggregate="square").values["conv"]
    assert torch.equal(one, two)


def test_taylor_of_one_logit_and_of_several_labels() -> None:
    table = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    for outputs, labels in ((1, torch.tensor([0, 1, 1])), (3, table)):
        net = toys.Flat()
        net.head = nn.Linear(10, outputs)
        model = toys.randomise(net).double()
        found = score(model, [(IMAGES, labels)], criterion="taylor").values["conv"]
        truth = labels.double().view(3, -1)
        gated = Gated(model)

        def loss(gate: Tensor, i: int, gated: Gated = gated, truth: Tensor = truth) -> Tensor:
            p = gated(IMAGES[i : i + 1], gate).sigmoid()[0]
            return -(truth[i] * p.log() + (1 - truth[i]) * (1 - p).log()).sum()

        expected = [
            sum(slope(lambda gate, i=i: loss(gate, i), unit) ** 2 for i in range(3))
            for unit in range(6)
        ]
        assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_labels_of_another_width_are_refused() -> None:
    model = toys.randomise(toys.Flat()).double()
    with pytest.raises(DebrideError, match=r"labels have shape \(3, 2\) and .* \(3, 3\)"):
        score(model, [(IMAGES, torch.eye(3)[:, :2])], criterion="taylor")


class Smooth(nn.Module):
    """A network with few weights, curved everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2, stride=4)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).tanh().mean((2, 3)))


def exact(model: nn.Module, labels: Tensor) -> Tensor:
    """Give ½ Σ w² ∂²L/∂w² of each channel from the whole Hessian."""
    weight = model.conv.weight.detach()

    def loss(weight: Tensor) -> Tensor:
        changed = {**dict(model.named_parameters()), "conv.weight": weight}
        out = torch.func.functional_call(model, changed, (IMAGES,))
        return F.cross_entropy(out, labels, reduction="sum")

    whole = torch.autograd.functional.hessian(loss, weight).reshape(12, 12)
    return (whole.diagonal() * weight.flatten() ** 2).view(3, 4).sum(1) / 2


def test_hessian_is_the_mean_over_probes_of_the_quadratic_form() -> None:
    """Averaged over many probes it is the diagonal: within three standard errors."""
    torch.manual_seed(0)
    model = Smooth().double()
    labels = torch.tensor([0, 1, 1])
    expected = exact(model, labels)
    estimates = torch.stack([
        score(model, [(IMAGES, labels)], criterion="hessian", probes=64, seed=seed).values["conv"]
        for seed in range(8)
    ])  # fmt: skip
    error = (estimates.mean(0) - expected).abs()
    assert bool((error < 3 * estimates.std(0) / 8**0.5).all())
    assert float(error.max()) < 0.15 * float(expected.abs().max())


def test_hessian_is_exact_where_weights_do_not_mix() -> None:
    """With one weight a channel and a diagonal Hessian, one probe is enough."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
        model[2].weight.copy_(torch.eye(2))
    image = torch.tensor(3.0).view(1, 1, 1, 1)
    found = score(model, [(image, torch.tensor([0]))], criterion="hessian", probes=1).values["0"]
    # logits 6 and -3; L'' by each logit is p (1 - p), and by both together -p (1 - p); v ⊙ Hv is
    # h (1 ∓ 1): the off-diagonal enters with the product of the two signs.
    p = 1 / (1 + torch.tensor(9.0).exp())
    h = 9 * p * (1 - p)
    either = [[0.5 * w**2 * float(h) * (1 - s) for w in (2, -1)] for s in (1, -1)]
    assert min(abs(found.tolist()[0] - e[0]) + abs(found.tolist()[1] - e[1]) for e in either) < 1e-6


def test_hessian_of_attention() -> None:
    """Fused attention has no second derivative; the criterion asks for the plain one."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 8, 4, 4)
            self.up = nn.Linear(8, 6)
            self.down = nn.Linear(6, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            t = self.patch(x).flatten(2).transpose(1, 2)
            t = t + F.scaled_dot_product_attention(t, t, t)
            return self.head((t + self.down(self.up(t).tanh())).mean(1))

    torch.manual_seed(0)
    found = score(Attending().double(), [(IMAGES, LABELS)], criterion="hessian").values
    assert found.keys() == {"up"}
    assert float(found["up"].abs().min()) > 0
