from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from debride import score
from debride.criteria import criterion_names
from debride.errors import DebrideError
from planning import toys
from planning.test_groups import Attention

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_magnitude_is_the_norm_of_the_producing_weights() -> None:
    model = toys.randomise(toys.SmallUNet())
    values = score(model, [IMAGES], criterion="magnitude").values
    for name in ("down", "deep", "join"):
        weight = model.get_parameter(f"{name}.weight").detach().double().numpy()
        expected = np.sqrt((weight**2).reshape(len(weight), -1).sum(1))
        np.testing.assert_allclose(values[name].numpy(), expected, rtol=1e-12)
    weight = model.get_parameter("up.weight").detach().double().numpy()  # (in, out, h, w)
    np.testing.assert_allclose(
        values["up"].numpy(), np.sqrt((weight**2).sum(axis=(0, 2, 3))), rtol=1e-12
    )


def test_the_magnitude_of_a_head_is_that_of_what_reads_it() -> None:
    model = toys.randomise(Attention())
    values = score(model, [IMAGES], criterion="magnitude").values["attend.out_proj"]
    weight = model.get_parameter("attend.out_proj.weight").detach().double()
    torch.testing.assert_close(values, (weight**2).sum(0).sqrt())


def test_random_is_seeded_and_leaves_the_global_generator_alone() -> None:
    model = toys.Flat()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, same, other = (
        score(model, [IMAGES], criterion="random", seed=s).values for s in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["conv"], one["hidden"][:6])


def test_an_unknown_criterion_is_named() -> None:
    assert {"lrp", "magnitude", "random"} <= set(criterion_names())
    with pytest.raises(DebrideError, match="no criterion 'magnitud': did you mean 'magnitude'"):
        score(toys.Flat(), [IMAGES], criterion="magnitud")


@pytest.mark.parametrize("criterion", ["lrp", "magnitude", "random"])
def test_the_network_comes_back_as_it_was(criterion: str) -> None:
    model = toys.randomise(toys.Flat()).train()
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    score(model, [(IMAGES, torch.tensor([0, 1]))], criterion=criterion)
    assert torch.equal(torch.get_rng_state(), state)
    assert [n for n, m in model.named_modules() if not m.training] == ["norm"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_of_a_pass_stays_in_memory() -> None:
    seen: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y: Any = x * 2
            seen.append(weakref.ref(y))
            return y

    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), Watched(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1)
    )
    score(model, [(IMAGES, torch.tensor([0, 1]))] * 3)
    gc.collect()
    assert len(seen) >= 3
    assert [ref() for ref in seen if ref() is not None] == []
