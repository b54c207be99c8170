"""What holds for every method: options, memory, callables, state, errors in words."""

import pytest
import torch
from torch import nn

from debride.errors import DebrideError
from debride.relevance import Region, Relevance, attribute, register_method

from .networks import Residual, Transformer, randomise_norms

METHODS = {
    "lrp": {"rules": "epsilon_plus"},
    "gradient": {},
    "smoothgrad": {"n_samples": 5},
    "ig": {"n_steps": 5},
    "gradcam": {"layer": "bn2"},
    "occlusion": {"window": 3},
}
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def residual() -> nn.Module:
    torch.manual_seed(0)
    return randomise_norms(Residual()).double()


def taps_of(method: str) -> list[str]:
    return [] if method == "occlusion" else ["conv1", "bn2"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, [2, 0, 1, 1], lambda out: out[:, 1] * 2])
def test_memory_never_changes_results(method, target):
    model = residual()
    options = {"method": method, "taps": taps_of(method), **METHODS[method]}
    large = attribute(model, IMAGES, target, memory=100, **options)
    for memory in (1e-9, 4e-5):
        small = attribute(model, IMAGES, target, memory=memory, **options)
        pairs = [(large.input, small.input), (large.output, small.output)]
        pairs += [(large.taps[name], small.taps[name]) for name in large.taps]
        for expected, found in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        for account in ("shares", "constants", "lost"):
            assert getattr(small, account) == pytest.approx(getattr(large, account), abs=1e-9)
        assert small.delta == pytest.approx(large.delta, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("memory", [100, 1e-9])
def test_a_function_always_sees_the_whole_batch_in_its_order(method, memory):
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5]).double()

    def function(output):
        assert output.shape == (4, 3)
        return output[:, 1] * weights

    options = {"method": method, "memory": memory, "relu": False, **METHODS[method]}
    options = options if method == "gradcam" else {k: v for k, v in options.items() if k != "relu"}
    found = attribute(residual(), IMAGES, function, **options).input
    plain = attribute(residual(), IMAGES, 1, **options).input
    torch.testing.assert_close(found, plain * weights[:, None, None, None])


class Several(nn.Module):
    """Its output comes in a container that it makes anew for each batch."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.inner, self.wrap = residual(), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


class Output:
    def __init__(self, logits) -> None:
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda y: {"logits": y, "loss": y.mean()}, lambda out: out["logits"]),
        (lambda y: [y, (y, None)], lambda out: out[1][0]),
        (Output, lambda out: out.logits),
        (lambda y: y.max(1), lambda out: out.values[:, None].expand(-1, 2)),
    ],
)
def test_functions_are_given_the_container_that_the_network_returns(wrap, unwrap):
    def function(output):
        logits = unwrap(output)
        assert len(logits) == 4
        return logits[:, 1]

    found = attribute(Several(wrap), IMAGES, function, method="ig", n_steps=3).input
    expected = attribute(
        residual(), IMAGES, lambda y: unwrap(wrap(y))[:, 1], method="ig", n_steps=3
    )
    torch.testing.assert_close(found, expected.input)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_global_changes_and_the_network_comes_back(method):
    model = residual().train()
    model.conv2.eval()
    model.fc.requires_grad_(False)
    training = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images, generator = IMAGES.clone(), torch.get_rng_state()
    with torch.no_grad():
        attribute(model, images, method=method, taps=taps_of(method), **METHODS[method])
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("method", METHODS)
def test_inference_mode_and_images_changed_in_place(method):
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn2, self.head = nn.Conv2d(3, 2, 3).double(), nn.Linear(2, 2).double()

        def forward(self, x):
            x.mul_(2)
            return self.head(self.bn2(x).relu_().mean((2, 3)))

    torch.manual_seed(0)
    model, images = Changes(), IMAGES.clone()
    expected = attribute(model, images, 0, method=method, **METHODS[method]).input
    assert torch.equal(images, IMAGES)
    with torch.inference_mode():
        found = attribute(model, IMAGES.clone(), 0, method=method, **METHODS[method]).input
    assert torch.equal(found, expected)


def test_units_are_tapped_by_integrated_gradients_too():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(96, 2),
    ).double()  # fmt: skip
    found = attribute(model, IMAGES, 0, method="ig", n_steps=2, taps="units").taps
    assert {name: tuple(tap.shape) for name, tap in found.items()} == {
        "1": (4, 4, 6, 6),
        "3": (4, 6, 4, 4),
    }


def test_a_method_of_ones_own():
    @register_method("sums")
    def sums(request, *, power: float = 1.0):
        values = request.images**power
        return Relevance(values, values.flatten(1).sum(1), {}, 0.0)

    found = attribute(nn.Identity(), IMAGES, method="sums", power=2)
    assert torch.equal(found.input, IMAGES**2)
    with pytest.raises(DebrideError, match="'sums' has no option 'powr': did you mean 'power'"):
        attribute(nn.Identity(), IMAGES, method="sums", powr=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "integrated"}, "no explanation method 'integrated'"),
        ({"method": "smothgrad"}, "did you mean 'smoothgrad'"),
        ({"method": "ig", "steps": 3}, "no option 'steps': did you mean 'n_steps'"),
        ({"method": "lrp", "noise": 3}, "'lrp' has no option 'noise': known: memory"),
        ({"method": "ig", "taps": ["layer9"]}, "no module 'layer9'"),
        ({"method": "ig", "target": 3}, "between 0 and 2"),
        ({"method": "ig", "memory": 0}, "above 0"),
        ({"method": "ig", "target": lambda out: out}, r"shape \(4, 3\) for 4 images"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    with pytest.raises(DebrideError, match=message):
        attribute(residual(), IMAGES, **options)


@pytest.mark.parametrize("method", METHODS)
def test_an_output_that_is_not_finite_names_its_first_module(method):
    model = residual()
    with torch.no_grad():
        model.bn2.bias[3] = float("nan")
    with pytest.raises(DebrideError, match=r"not finite is 'bn2' \(BatchNorm2d\)"):
        attribute(model, IMAGES, 0, method=method, **METHODS[method])
    images = IMAGES.clone()
    images[0, 0, 0, 0] = float("inf")
    with pytest.raises(DebrideError, match="images hold NaN"):
        attribute(residual(), images, 0, method=method, **METHODS[method])


def test_a_function_that_is_not_finite_is_named():
    with pytest.raises(DebrideError, match="look at the target function"):
        attribute(residual(), IMAGES, lambda out: (out[:, 0] * 0 - 1).log(), method="ig")


@pytest.mark.parametrize("method", ["lrp", "ig", "smoothgrad"])
def test_a_module_whose_calls_have_different_shapes_is_refused(method):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.act(x).flatten(1)[:, :5])

    with pytest.raises(DebrideError, match="'act' is called several times"):
        attribute(Twice(), IMAGES, 0, method=method, taps=["act"])


@pytest.mark.parametrize("method", ["lrp", "gradient", "ig", "smoothgrad"])
def test_transformers(method):
    torch.manual_seed(0)
    model = Transformer(fused=True).double().eval()
    found = attribute(model, IMAGES, method=method, taps=["embed", "mlp"])
    assert found.input.shape == IMAGES.shape
    assert found.taps["mlp"].shape == (4, 5, 12)


@pytest.mark.parametrize("method", METHODS)
def test_regions_of_a_segmentation(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1)).double()
    options = {**METHODS[method], "method": method}
    if method == "gradcam":
        options["layer"] = "1"
    logits = model(IMAGES).detach()
    mask = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    predicted = logits.argmax(1) == 2
    for given, held in ((mask, mask), (mask[0], mask[0].expand(4, 8, 8)), (None, predicted)):
        for memory in (100, 1e-9):
            found = attribute(model, IMAGES, Region(given, 2), memory=memory, **options)
            torch.testing.assert_close(found.output, (logits[:, 2] * held).sum((1, 2)))
            same = attribute(
                model, IMAGES, lambda out, held=held: (out[:, 2] * held).sum((1, 2)), **options
            )
            torch.testing.assert_close(found.input, same.input)
