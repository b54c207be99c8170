"""Heads go in steps, through disk and under autograd, as channels do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import debride
from debride.models.attention import Opened
from debride.planning.costs import measure
from planning import toys
from planning.test_groups import Attention

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [(IMAGES, torch.arange(12) % 3)]


class Encoder(nn.Module):
    """Torch's own encoder layer, which has a fused path for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 2, 2)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("make", [Attention, Encoder])
def test_pruned_in_steps_and_read_back(make: type[nn.Module], tmp_path: Path) -> None:
    model = toys.randomise(make())
    pruned = debride.prune(
        model, DATA, DATA, ratio=0.5, steps=2, ranking="layer", recovery=None, evidence=False
    )
    kept = {group.kind: len(group.keep) / group.units for group in pruned.plan.groups}
    assert kept["head"] == kept["head_dim"] == 0.5
    assert measure(pruned.model, IMAGES) == pruned.plan.after
    assert any(isinstance(module, Opened) for module in pruned.model.modules())
    assert not any(isinstance(module, Opened) for module in model.modules())

    pruned.save(tmp_path / "half")
    loaded = debride.load(tmp_path / "half", model)
    with torch.no_grad():
        expected = pruned.model.eval()(IMAGES)
        assert torch.equal(loaded(IMAGES), expected)
        masked = debride.apply(model, pruned.plan, masks=True)(IMAGES)
    torch.testing.assert_close(masked, expected, rtol=1e-5, atol=1e-5)
    found = debride.attribute(loaded, IMAGES, 1)
    assert float(found.delta) == pytest.approx(0, abs=1e-4)


def test_an_encoder_layer_gives_the_same_with_and_without_gradients() -> None:
    model = toys.randomise(Encoder())
    pruned = debride.prune(
        model, DATA, DATA, ratio=0.5, steps=1, ranking="layer", recovery=None, evidence=False
    ).model.eval()
    with torch.no_grad():
        fused = pruned(IMAGES)
    torch.testing.assert_close(pruned(IMAGES), fused)
