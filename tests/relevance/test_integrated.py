"""Integrated gradients and conductance: closed forms, plain loops, completeness."""

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.relevance import attribute

from .networks import Residual, Transformer, randomise_norms

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def small(bend: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 8, 3), bend(), nn.Flatten(),
        nn.Linear(128, 3),
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize("rule", ["trapezoid", "left", "gausslegendre"])
def test_a_linear_network_has_its_weights_times_the_way(rule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    images, start = torch.randn(2, 3, 1, 3, 4).double()
    found = attribute(model, images, 1, method="ig", n_steps=3, rule=rule, baseline=start)
    expected = (images - start) * model[1].weight.detach()[1].view(3, 4)
    torch.testing.assert_close(found.input, expected)
    assert found.deltas.abs().max() < 1e-12


def test_conductance_of_a_linear_layer_is_its_weight_times_the_way_of_its_input():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).double()
    images = torch.randn(3, 4).double()
    found = attribute(model, images, 0, method="ig", n_steps=4, taps=["0"]).taps["0"]
    expected = model[1].weight[0] * (model[0](images) - model[0](torch.zeros_like(images)))
    torch.testing.assert_close(found, expected.detach())


def test_squares_integrate_to_themselves():
    images = torch.tensor([[3.0, -2.0]])
    found = attribute(nn.Identity(), images, lambda out: (out**2).sum(1), method="ig", n_steps=5)
    torch.testing.assert_close(found.input, images**2)  # the trapezoid is exact on 2x


def reference(model, image, start, label, layers, steps, trapezoid):
    """Walk along the path one step at a time, one layer at a time."""
    found = {}
    for layer in layers:
        last = None
        for step in range(steps + 1):
            kept = []
            handle = model.get_submodule(layer).register_forward_hook(
                lambda _m, _i, out, kept=kept: kept.append(out)
            )
            point = (start + step / steps * (image - start)).requires_grad_()
            score = model(point)[0, label]
            handle.remove()
            gradient = torch.autograd.grad(score, kept[0])[0]
            activation = kept[0].detach()
            if last is not None:
                slope = (last[1] + gradient) / 2 if trapezoid else last[1]
                found[layer] = found.get(layer, 0) + slope * (activation - last[0])
            last = activation, gradient
    return found


@pytest.mark.parametrize("memory", [None, 1e-5])
@pytest.mark.parametrize("rule", ["trapezoid", "left"])
def test_conductance_equals_a_plain_loop(rule, memory):
    model, layers = small(), ["0", "1", "2", "5"]
    found = attribute(
        model, IMAGES, [0, 2, 1], method="ig", n_steps=6, rule=rule, taps=layers, baseline="mean",
        memory=memory,
    )  # fmt: skip
    start = IMAGES.mean((2, 3), keepdim=True).expand_as(IMAGES)
    for i, label in enumerate([0, 2, 1]):
        expected = reference(
            model, IMAGES[i : i + 1], start[i : i + 1], label, layers, 6, rule == "trapezoid"
        )
        for layer in layers:
            torch.testing.assert_close(found.taps[layer][i : i + 1], expected[layer])


@pytest.mark.parametrize(("bend", "most"), [(nn.GELU, 2e-5), (nn.ReLU, 5e-3)])
@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", -0.5])
def test_input_and_separating_layers_are_complete(baseline, bend, most):
    # A ReLU's slope jumps, so that a sum over steps errs by about one step at each jump.
    model = small(bend)
    found = attribute(
        model, IMAGES, method="ig", n_steps=200, baseline=baseline, taps=["0", "1", "3", "5"]
    )
    rises = found.output - (found.output - found.input.sum((1, 2, 3)) - found.deltas)
    assert float(found.output.sum() - rises.sum()) == pytest.approx(found.shares["baseline"])
    assert found.deltas.abs().sum() <= most * rises.abs().sum()
    assert found.delta == pytest.approx(float(found.deltas.sum()), abs=1e-12)
    assert sum(found.shares.values()) + found.delta == pytest.approx(float(found.output.sum()))
    for value in found.taps.values():
        sums = value.flatten(1).sum(1)
        assert (sums - rises).abs().sum() <= most * rises.abs().sum()


def test_taps_behind_in_place_calls_are_what_the_module_gave():
    torch.manual_seed(0)
    model = randomise_norms(Residual()).double()
    found = attribute(model, IMAGES, 1, method="ig", n_steps=400, taps=["bn2", "short", "fc"])
    rise = float(found.output.sum()) - found.shares["baseline"]
    assert float(found.taps["fc"].sum()) == pytest.approx(rise)
    both = found.taps["bn2"].sum() + found.taps["short"].sum()
    assert float(both) == pytest.approx(rise, rel=1e-3)
    assert float(found.input.sum()) == pytest.approx(rise, rel=2e-3)


def test_a_module_called_twice_sums_its_calls():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.act = nn.Linear(4, 4), nn.Tanh()

        def forward(self, x):
            return self.act(self.one(self.act(self.one(x))))

    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(2, 4).double()
    found = attribute(model, x, 0, method="ig", n_steps=300, taps=["act"], memory=1e-6)
    # Each of the two calls separates input from output.
    rise = float(found.output.sum()) - found.shares["baseline"]
    assert float(found.taps["act"].sum()) == pytest.approx(2 * rise, rel=1e-3)


@pytest.mark.parametrize("batch_first", [True, False])
def test_layouts_in_which_the_batch_comes_second(batch_first):
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            x = x.flatten(2)
            x = x.transpose(1, 2) if batch_first else x.permute(2, 0, 1)
            return self.head(self.inner(x).tanh().mean(1 if batch_first else 0))

    torch.manual_seed(0)
    model = Sequence().double()
    images = IMAGES[:, :, :2, :2]
    found = attribute(model, images, 0, method="ig", n_steps=9, taps=["inner"]).taps["inner"]
    one = [
        attribute(model, images[i : i + 1], 0, method="ig", n_steps=9, taps=["inner"], memory=1e-9)
        for i in range(3)
    ]
    expected = torch.cat([each.taps["inner"] for each in one], 0 if batch_first else 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fused", [True, False])
def test_modules_that_return_tuples_are_tapped_at_their_first_tensor(fused):
    torch.manual_seed(0)
    model = Transformer(fused=fused).double().eval()
    taps = ["attention"] if fused else ["project"]
    found = attribute(model, IMAGES, 1, method="ig", n_steps=3, taps=taps)
    assert found.taps[taps[0]].shape == (3, 5, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    model, images = small().to(dtype), IMAGES.to(dtype)
    found = attribute(model, images, 1, method="ig", n_steps=30, taps=["2"])
    exact = attribute(small(), IMAGES, 1, method="ig", n_steps=30, taps=["2"])
    assert found.input.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for ours, theirs in ((found.input, exact.input), (found.taps["2"], exact.taps["2"])):
        assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "simpson"}, "known are trapezoid, left, gausslegendre"),
        ({"n_steps": 0}, "give 1 or more"),
        ({"points": [0.0]}, "two or more numbers"),
        ({"points": [0.0, 1.0], "rule": "gausslegendre"}, "leave out points"),
        ({"baseline": torch.zeros(3, 5, 5)}, r"shape \(3, 5, 5\).*\(3, 3, 8, 8\)"),
        ({"baseline": "noise"}, "no baseline 'noise'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(DebrideError, match=message):
        attribute(small(), IMAGES, 0, method="ig", **options)
