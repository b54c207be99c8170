"""DL-Backtrace through whole networks: conservation, both maps, options."""

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.relevance import Region, attribute

from .networks import Residual, randomise_norms
from .test_ledger import SMALL, small


def images(count=2):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("options", [{}, {"collapse": True}, {"norm": "pass"}], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_default_mode_conserves(name, options):
    found = attribute(small(name), images(), 1, method="dlb", strict=True, **options)
    assert abs(found.delta) < 1e-9
    assert torch.isfinite(found.input).all()
    if not options:
        assert abs(found.shares["lost"]) < 1e-4  # only what a softmax over scores next to 0 keeps


def test_default_mode_keeps_the_sign_of_what_it_explains():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)).double()  # fmt: skip
    found = attribute(model, images(), 0, method="dlb")
    assert ((found.input >= 0).flatten(1).all(1) == (found.output > 0)).all()


@pytest.mark.parametrize("name", SMALL)
def test_the_two_maps_differ_by_their_difference(name):
    maps = {
        kind: attribute(
            small(name), images(), 1, method="dlb_contrastive", map=kind, taps=["fc"] if hasattr(
                small(name), "fc") else None,
        )
        for kind in ("plus", "minus", "difference")
    }  # fmt: skip
    plus, minus = maps["plus"], maps["minus"]
    torch.testing.assert_close(maps["difference"].input, plus.input - minus.input)
    assert maps["difference"].input.shape == images().shape
    assert all(abs(found.delta) < 1e-8 for found in maps.values())
    expected = small(name)(images())
    assert torch.allclose(plus.output, expected[:, 1])
    if "fc" in plus.taps:
        torch.testing.assert_close(plus.taps["fc"][:, 1], expected[:, 1])
        others = expected.clone()
        others[:, 1] = 0
        torch.testing.assert_close(minus.taps["fc"], others)


def test_contrastive_mode_of_one_layer_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    logits, found = model(x)[0].detach(), {}
    for kind in ("plus", "minus"):
        found[kind] = attribute(model, x, 2, method="dlb_contrastive", map=kind).input.flatten()
    weight = model[1].weight.detach()
    expected = {"plus": torch.zeros(12).double(), "minus": torch.zeros(12).double()}
    start = {"plus": logits * torch.tensor([0, 0, 1]), "minus": logits * torch.tensor([1, 1, 0])}
    for j in range(3):
        z = weight[j] * x.flatten()
        up, down = z.clamp(min=0), -z.clamp(max=0)
        larger = "plus" if start["plus"][j] > start["minus"][j] else "minus"
        smaller = "minus" if larger == "plus" else "plus"
        to_up, to_down = (larger, smaller) if logits[j] > 0 else (smaller, larger)
        expected[to_up] += up / up.sum() * start[to_up][j]
        expected[to_down] += down / down.sum() * start[to_down][j]
    for kind, value in expected.items():
        torch.testing.assert_close(found[kind], value)


def test_a_single_output_sets_one_minus_itself_against_it():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False), nn.Sigmoid()).double()
    x = torch.rand(2, 3, 2, 2).double()
    nn.init.constant_(model[1].weight, 0.1)  # one sign: both maps pass whole
    m = model(x)[:, 0]
    minus = attribute(model, x, 1, method="dlb_contrastive", map="minus")
    # The sigmoid passes σ(x) − σ(0) of what arrives; σ(0) absorbs the rest.
    expected = (1 - m) * (m - 0.5) / m
    torch.testing.assert_close(minus.input.flatten(1).sum(1), expected)


def test_a_region_is_set_against_the_other_classes_in_it():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 3, 1).double()
    mask = torch.zeros(8, 8)
    mask[2:5, 3:6] = 1
    found = attribute(model, images(), Region(mask, 1), method="dlb_contrastive", map="minus")
    assert found.input[:, :, mask == 0].abs().max() == 0
    assert found.input[:, :, mask == 1].abs().sum() > 0


def test_what_the_contrastive_mode_cannot_do_is_said():
    model = randomise_norms(Residual()).double()
    with pytest.raises(DebrideError, match="not a function"):
        attribute(model, images(), lambda y: y[:, 0], method="dlb_contrastive")
    with pytest.raises(DebrideError, match="give one of difference, plus, minus"):
        attribute(model, images(), 0, method="dlb_contrastive", map="both")
    with pytest.raises(DebrideError, match="'fold' or 'pass'"):
        attribute(model, images(), 0, method="dlb", norm="merge")


def test_memory_never_changes_the_result():
    model = randomise_norms(Residual()).double()
    for method in ("dlb", "dlb_contrastive"):
        whole = attribute(model, images(5), [0, 1, 2, 0, 1], method=method, taps=["bn2"])
        cut = attribute(model, images(5), [0, 1, 2, 0, 1], method=method, taps=["bn2"], memory=1e-9)
        torch.testing.assert_close(whole.input, cut.input)
        torch.testing.assert_close(whole.taps["bn2"], cut.taps["bn2"])
        assert whole.shares == pytest.approx(cut.shares)
