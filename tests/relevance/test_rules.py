"""Every rule against plain loops over units, in float64, at 1e-9."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from debride.errors import DebrideError
from debride.relevance import RuleSet, attribute
from debride.relevance.linear import LinearOperator
from debride.relevance.rules import (
    AlphaBeta,
    Backtrace,
    Epsilon,
    Flat,
    Gamma,
    WSquare,
    ZBox,
    ZPlus,
)  # fmt: skip

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def dense_matrix(layer: nn.Module, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Write a linear layer or convolution as a plain matrix (outputs, inputs) and a bias."""
    size = int(torch.tensor(shape).prod())
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad():
        bias = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        columns = layer(basis).flatten(1) - bias
    return columns.T, bias


def loop(rule, x, matrix, bias, relevance):
    """The rules as the papers write them, one contribution at a time."""
    found = torch.zeros_like(x)
    for j in range(len(matrix)):
        if not matrix[j].any() and bias[j] == 0:
            continue  # an output that no input reaches
        z = matrix[j] * x
        if rule == "epsilon":
            y = z.sum() + bias[j]
            found += z * relevance[j] / y
        elif isinstance(rule, Epsilon):
            y = z.sum() + bias[j]
            found += z * relevance[j] / (y + rule.epsilon * (1 if y >= 0 else -1))
        elif isinstance(rule, ZPlus):
            positive = z.clamp(min=0)
            offset = bias[j].clamp(min=0) if rule.bias else 0
            found += positive * relevance[j] / (positive.sum() + offset + rule.epsilon)
        elif isinstance(rule, Flat):
            reach = (matrix[j] != 0).double()
            found += reach * relevance[j] / reach.sum().clamp(min=1)
        elif isinstance(rule, WSquare):
            share = matrix[j].square()
            found += share * relevance[j] / share.sum().clamp(min=1e-300)
        elif isinstance(rule, ZBox):
            low, high = rule.low * matrix[j].clamp(min=0), rule.high * matrix[j].clamp(max=0)
            share = z - low - high
            found += share * relevance[j] / (share.sum() + rule.epsilon)
        elif isinstance(rule, AlphaBeta):
            up, down = z.clamp(min=0), z.clamp(max=0)
            b = bias[j] if rule.bias else torch.zeros(())
            above = up.sum() + b.clamp(min=0) + rule.epsilon
            below = down.sum() + b.clamp(max=0) - rule.epsilon
            found += (rule.alpha * up / above - rule.beta * down / below) * relevance[j]
        elif isinstance(rule, Gamma):
            y = z.sum() + bias[j]
            if y == 0:
                continue
            agrees = z.clamp(min=0) if y > 0 else z.clamp(max=0)
            b = bias[j].clamp(min=0) if y > 0 else bias[j].clamp(max=0)
            share = z + rule.gamma * agrees
            total = share.sum() + bias[j] + rule.gamma * b
            found += share * relevance[j] / (total + rule.epsilon * y.sign())
        elif isinstance(rule, Backtrace):
            above, below = z.clamp(min=0).sum(), -z.clamp(max=0).sum()
            if rule.later:
                above, below = (v if v != 0 else torch.ones(()) for v in (above, below))
            total = above + below + bias[j].abs()
            found += z.abs() * relevance[j] / total if total > 0 else 0
    return found


layers = st.fixed_dictionaries(
    {
        "spatial": st.integers(1, 3),
        "groups": st.sampled_from([1, 2]),
        "stride": st.integers(1, 2),
        "padding": st.integers(0, 1),
        "dilation": st.integers(1, 2),
        "kernel": st.integers(1, 3),
        "bias": st.booleans(),
        "transposed": st.booleans(),
        "positive": st.booleans(),
        "seed": st.integers(0, 99),
    }
)


def make(case):
    torch.manual_seed(case["seed"])
    kind = "ConvTranspose" if case["transposed"] else "Conv"
    padding = min(case["padding"], case["kernel"] // 2)
    layer = getattr(nn, f"{kind}{case['spatial']}d")(
        2, 4, case["kernel"], stride=case["stride"], padding=padding,
        groups=case["groups"], dilation=case["dilation"], bias=case["bias"],
    ).double()  # fmt: skip
    size = {1: 7, 2: 5, 3: 5}[case["spatial"]]
    x = torch.randn(1, 2, *[size] * case["spatial"], dtype=torch.float64)
    return layer, x.abs() if case["positive"] else x


RULES = [
    "epsilon", Epsilon(0.1), ZPlus(), ZPlus(bias=False), ZPlus(epsilon=1e-3), Flat(), WSquare(),
    ZBox(-5.0, 5.0), AlphaBeta(), AlphaBeta(1.5, 0.5, bias=False), Gamma(), Gamma(2.0, 1e-3),
    Backtrace(), Backtrace(later=True),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=str)
@settings(max_examples=15, deadline=None)
@given(case=layers)
def test_convolutions_of_every_shape(rule, case):
    layer, x = make(case)
    used = Epsilon() if rule == "epsilon" else rule
    rules = RuleSet("test", linear=used, convolution=used)
    generator = torch.Generator().manual_seed(0)
    y = layer(x).detach()
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    found = attribute(layer, x, lambda out: (out * weights).flatten(1).sum(1), rules=rules)
    matrix, bias = dense_matrix(layer, x.shape[1:])
    relevance = (y * weights).flatten()
    expected = loop(rule, x.flatten(), matrix, bias, relevance)
    torch.testing.assert_close(found.input.flatten(), expected, **TIGHT)
    if not isinstance(rule, str) and rule.of_input:
        assert found.shares["input"] == pytest.approx(float(expected.sum()), abs=1e-9)
    else:
        assert abs(found.delta) < 1e-7 * (1 + float(relevance.abs().sum()))


@pytest.mark.parametrize("rule", [r for r in RULES if isinstance(r, Epsilon | ZPlus | Flat |
                         WSquare | AlphaBeta | Gamma | Backtrace)], ids=str)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_over_tokens(rule, bias):
    torch.manual_seed(0)
    layer = nn.Linear(5, 4, bias=bias).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    rules = RuleSet("test", linear=rule, convolution=rule)
    found = attribute(layer, x, lambda out: out.flatten(1).sum(1), rules=rules).input
    offset = layer.bias.detach() if bias else torch.zeros(4, dtype=torch.float64)
    for image in range(2):
        for token in range(3):
            y = layer(x[image, token]).detach()
            expected = loop(rule, x[image, token], layer.weight.detach(), offset, y)
            torch.testing.assert_close(found[image, token], expected, **TIGHT)


@pytest.mark.parametrize("layer", ["Conv2d", "ConvTranspose2d", "Linear"])
@pytest.mark.parametrize(
    "rule",
    [Epsilon(), Epsilon(0.1), ZPlus(), Flat(), ZBox(-9.0, 9.0), AlphaBeta(), Gamma(), Backtrace()],
    ids=str,
)
def test_batch_norm_is_folded_as_if_the_weights_were_merged(layer, rule):
    torch.manual_seed(0)
    if layer == "Linear":
        first, norm, x = nn.Linear(6, 4), nn.BatchNorm1d(4), torch.randn(3, 6)
    else:
        first = getattr(nn, layer)(4, 6, 3, groups=2)
        norm, x = nn.BatchNorm2d(6), torch.randn(3, 4, 5, 5)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model, x = nn.Sequential(first, norm).double().eval(), x.double()
    merged = torch.nn.utils.fusion
    if layer == "Linear":
        alone = merged.fuse_linear_bn_eval(model[0], model[1])
    else:
        alone = merged.fuse_conv_bn_eval(model[0], model[1], transpose="Transpose" in layer) \
            if layer == "Conv2d" else _merged_transposed(model)  # fmt: skip
    rules = RuleSet("test", linear=rule, convolution=rule)

    def target(out):
        return out.flatten(1).sum(1)

    found, expected = (
        attribute(model, x, target, rules=rules),
        attribute(alone, x, target, rules=rules),
    )
    torch.testing.assert_close(found.input, expected.input, **TIGHT)
    torch.testing.assert_close(found.output, expected.output, **TIGHT)
    assert abs(found.delta) < 1e-7 or isinstance(rule, Flat)


def _merged_transposed(model):
    first, norm = model
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    alone = nn.ConvTranspose2d(4, 6, 3, groups=2).double()
    with torch.no_grad():
        weight = first.weight.clone()  # (in, out / groups, k, k): group g owns inputs 2g, 2g + 1
        for channel in range(4):
            group = channel // 2
            weight[channel] *= scale[3 * group : 3 * group + 3, None, None]
        alone.weight.copy_(weight)
        alone.bias.copy_((first.bias - norm.running_mean) * scale + norm.bias)
    return alone.eval()


def test_softmax_as_attnlrp_writes_it():
    class Soft(nn.Module):
        def forward(self, x):
            return x.softmax(-1)

    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = attribute(Soft(), x, 1)
    p = x.softmax(-1)
    arriving = torch.zeros_like(p)
    arriving[:, 1] = p[:, 1]
    expected = x * (arriving - p * arriving.sum(-1, keepdim=True))
    torch.testing.assert_close(found.input, expected, **TIGHT)
    assert found.shares["softmax"] == pytest.approx(float(p[:, 1].sum() - expected.sum()))


def test_product_of_two_activations_halves():
    class Product(nn.Module):
        def forward(self, x):
            return x[:, :6].view(-1, 2, 3) @ x[:, 6:].view(-1, 3, 2)

    x = torch.randn(1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = attribute(Product(), x, lambda y: y[:, 0, 1])
    a, b = x[0, :6].view(2, 3), x[0, 6:].view(3, 2)
    expected = torch.zeros(12, dtype=torch.float64)
    for k in range(3):
        expected[k] = a[0, k] * b[k, 1] / 2
        expected[6 + 2 * k + 1] = a[0, k] * b[k, 1] / 2
    torch.testing.assert_close(found.input[0], expected, **TIGHT)


def test_gate_times_signal_goes_to_the_signal():
    class Gated(nn.Module):
        def forward(self, x):
            return x[:, :3] * torch.sigmoid(x[:, 3:])

    x = torch.randn(1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = attribute(Gated(), x, 2).input[0]
    assert float(found[2]) == pytest.approx(float(x[0, 2] * torch.sigmoid(x[0, 5])))
    assert found[[0, 1, 3, 4, 5]].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "f"),
    [("gelu", F.gelu), ("silu", F.silu), ("softplus", F.softplus), ("exp", torch.exp),
     ("hardswish", F.hardswish), ("clamp", lambda x: x.clamp(-0.5, 0.5)), ("square", torch.square),
     ("power", lambda x: x**3), ("elu", F.elu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)],
)  # fmt: skip
def test_activations_pass_relevance_less_what_f_of_zero_absorbs(name, f):
    class Act(nn.Module):
        def forward(self, x):
            return f(x)

    x = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 0
    found = attribute(Act(), x, lambda y: y.sum(1))
    offset = f(torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(found.input, (f(x) - offset) * (x != 0), **TIGHT)
    assert found.shares["constants"] == pytest.approx(float(offset) * 10)


@pytest.mark.parametrize("name", ["layer", "group", "instance", "rms"])
def test_norms_keep_means_and_biases_and_hold_the_scale(name):
    x = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm, dims = {
        "layer": (nn.LayerNorm([4, 3]), (1, 2)),
        "group": (nn.GroupNorm(1, 4), (1, 2)),
        "instance": (nn.InstanceNorm1d(4, affine=True), (2,)),
        "rms": (nn.RMSNorm([4, 3], eps=1e-5), (1, 2)),
    }[name]
    norm = norm.double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    weights = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = attribute(norm, x, lambda y: (y * weights).sum((1, 2)))
    mean = 0 if name == "rms" else x.mean(dims, keepdim=True)
    if name == "rms":
        scale = (x.pow(2).mean(dims, keepdim=True) + 1e-5).rsqrt()
    else:
        scale = (x.var(dims, unbiased=False, keepdim=True) + 1e-5).rsqrt()
    gain = norm.weight.detach() if norm.weight.ndim == 2 else norm.weight.detach()[:, None]
    c = weights * gain * scale
    expected = x * (c - (c.mean(dims, keepdim=True) if name != "rms" else 0))
    torch.testing.assert_close(found.input, expected, **TIGHT)
    assert abs(found.delta) < 1e-9
    shown = ((x - mean) * scale * gain * weights).sum()
    assert float(found.input.sum()) == pytest.approx(float(shown))


@pytest.mark.parametrize("rule", [ZPlus(), AlphaBeta(), Gamma(), Backtrace()])
def test_what_no_longer_comes_out_of_a_relu_is_looked_at_again(rule):
    """A ReLU's output is known to be nowhere negative, until the network writes into it."""

    class Shifted(nn.Module):
        def __init__(self, in_place):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two, self.in_place = nn.Linear(5, 4), nn.Linear(4, 2), in_place

        def forward(self, x):
            x = torch.relu(self.one(x))
            if self.in_place:
                x -= 0.2
                return self.two(x)
            return self.two(x + torch.full_like(x, -0.2))

    rules = RuleSet("one", rule, rule)
    x = torch.randn(3, 5, dtype=torch.float64)
    found = [attribute(Shifted(b).double(), x, 1, rules=rules).input for b in (True, False)]
    torch.testing.assert_close(*found, **TIGHT)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_two_transposed_products_in_one(groups, transposed):
    torch.manual_seed(0)
    name = "conv_transpose2d" if transposed else "conv2d"
    x, kernel = torch.randn(2, 4, 7, 6), torch.randn(*((4, 6 // groups) if transposed else
                                                       (6, 4 // groups)), 3, 2)  # fmt: skip
    operator = LinearOperator(name, kernel, None, (2, 1), (1, 0), (1, 2), groups, (0, 0))
    c = torch.randn_like(operator(x))
    found = operator.adjoints(c, x, kernel, kernel.abs())
    expected = operator.adjoint(c, x, kernel), operator.adjoint(c, x, kernel.abs())
    torch.testing.assert_close(found, expected)


def test_bounds_for_another_number_of_channels_are_refused() -> None:
    rules = RuleSet("box", Epsilon(), Epsilon(), first=ZBox((0.0,) * 3, (1.0,) * 3))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    with pytest.raises(DebrideError, match="3 values as 'low' for an input of 1 channels"):
        attribute(model, torch.rand(1, 1, 4, 4), 0, rules=rules)
