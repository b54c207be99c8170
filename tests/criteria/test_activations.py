"""Mean activation and APoZ against plain loops over every value at a tap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from debride import score
from planning import toys

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def heard(model: nn.Module, name: str) -> Tensor:
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, out: found.append(out))
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    return found[0].clone()


@pytest.mark.parametrize("criterion", ["activation", "apoz"])
def test_channels(criterion: str) -> None:
    model = toys.randomise(toys.Flat())
    values = heard(model, "norm")
    found = score(model, [IMAGES], criterion=criterion)
    for unit in range(6):
        expected = 0.0
        for image in range(3):
            cells = [float(v) for v in values[image, unit].flatten()]
            passed = [v for v in cells if v > 0]
            expected += (len(passed) if criterion == "apoz" else sum(passed)) / len(cells)
        assert float(found.values["conv"][unit]) == pytest.approx(expected, rel=1e-5)
    if criterion == "apoz":
        assert bool(((found.mean()["conv"] > 0) & (found.mean()["conv"] < 1)).all())


@pytest.mark.parametrize("criterion", ["activation", "apoz"])
def test_neurons_of_tokens(criterion: str) -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 8, 2, 2)
            self.up = nn.Linear(8, 5)
            self.down = nn.Linear(5, 8)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            t = self.patch(x).flatten(2).transpose(1, 2)
            t = t + self.attend(t, t, t)[0]
            return self.head((t + self.down(self.up(t).relu())).mean(1))

    torch.manual_seed(0)
    model = Mixer().eval()
    values = heard(model, "up")
    assert values.shape == (3, 16, 5)
    found = score(model, [IMAGES], criterion=criterion).values["up"]
    kept = (values > 0).double() if criterion == "apoz" else values.clamp(min=0).double()
    expected = [sum(float(v) for v in kept[..., unit].flatten()) / 16 for unit in range(5)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
