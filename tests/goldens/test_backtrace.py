"""Numbers that the DL-Backtrace packages up to 0.0.25 give (float32, 1e-5)."""

import pytest
import torch
from torch import nn

from debride.relevance import RuleSet, attribute, rule_set
from debride.relevance.rules import Backtrace, Contrastive

CLOSE = {"rtol": 0, "atol": 1e-5}


def linear(weight, bias=None):
    weight = torch.tensor(weight)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def arriving(layer, x, relevance, rule):
    """Relevance of x where `relevance` arrives at the layer's output."""
    rules = RuleSet("golden", rule, rule)
    scale = relevance / layer(x).detach()
    return attribute(layer, x, lambda y: (y * scale).flatten(1).sum(1), rules=rules).input


def contrasted(layer, x, plus, minus):
    """Both maps of x where `plus` and `minus` arrive."""
    stacked = torch.cat([x, x])
    both = arriving(layer, stacked, torch.cat([plus, minus]), Contrastive())
    return both[0], both[1]


MIXED = linear([[1.0, -1.0, 0.5], [0.2, 0.3, -0.4]], [0.5, -0.25])
X = torch.tensor([[1.0, 2.0, -1.0]])
R = torch.tensor([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("later", "expected"),
    [(False, [0.525862, 1.327586, 0.676724]), (True, [0.413265, 0.989796, 0.451531])],
)
def test_linear_layer_with_contributions_of_both_signs(later, expected):
    found = arriving(MIXED, X, R, Backtrace(later=later))
    torch.testing.assert_close(found[0], torch.tensor(expected), **CLOSE)


def test_linear_layer_in_the_contrastive_mode():
    plus, minus = contrasted(MIXED, X, R, R / 2)
    torch.testing.assert_close(plus, torch.tensor([0.333333, 1.8, 0.866667]), **CLOSE)
    torch.testing.assert_close(minus, torch.tensor([0.666667, 0.5, 0.333333]), **CLOSE)


@pytest.mark.parametrize(
    ("bias", "later", "expected"),
    [
        (None, False, [0.153846, 0.615385, 0.230769]),
        (None, True, [0.060606, 0.242424, 0.090909]),
        ([0.25], False, [0.111111, 0.444444, 0.166667]),
        ([0.25], True, [0.052632, 0.210526, 0.078947]),
    ],
)
def test_linear_layer_with_contributions_of_one_sign(bias, later, expected):
    layer = linear([[0.1, 0.2, 0.3]], bias)
    x = torch.tensor([[1.0, 2.0, 0.5]])
    found = arriving(layer, x, torch.ones(1, 1), Backtrace(later=later))
    torch.testing.assert_close(found[0], torch.tensor(expected), **CLOSE)


def convolution():
    layer = nn.Conv2d(1, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[1.0, -1.0], [0.5, 2.0]]]]))
        layer.bias.fill_(0.5)
    return layer, torch.arange(-4.0, 5.0).view(1, 1, 3, 3)


def test_convolution():
    layer, x = convolution()
    found = arriving(layer, x, torch.ones(1, 1, 2, 2), Backtrace())
    expected = [
        [0.5, 0.775, 0.266667], [0.180147, 0, 0.357576], [0.117647, 0.842246, 0.727273]
    ]  # fmt: skip
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), **CLOSE)


def test_convolution_in_the_contrastive_mode():
    layer, x = convolution()
    one = torch.ones(1, 1, 2, 2)
    plus, minus = contrasted(layer, x, one, one / 2)
    torch.testing.assert_close(
        plus[0],
        torch.tensor([[0.888889, 0, 0.5], [0.111111, 0, 0.5], [0.142857, 1.015038, 0.842105]]),
        **CLOSE,
    )
    torch.testing.assert_close(
        minus[0], torch.tensor([[0.0, 1, 0], [0.5, 0, 0.5], [0, 0, 0]]), **CLOSE
    )


class Sum(nn.Module):
    def forward(self, x):
        return x[:, 0] + x[:, 1]


def test_sum():
    x = torch.tensor([[[1.0, -1.0, 2.0], [3.0, 1.0, 2.0]]])
    # R = 1 at every output; the middle one sums to 0, where c is not defined: shift it a little.
    x[0, 0, 1] = -1 + 1e-6
    scale = 1 / Sum()(x)
    found = attribute(Sum(), x, lambda y: (y * scale).sum(1), rules="dlb").input[0]
    torch.testing.assert_close(
        found, torch.tensor([[0.25, 0.5, 0.5], [0.75, 0.5, 0.5]]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("pool", "expected"),
    [(nn.MaxPool2d(2), [[0.5, 0.5], [0, 0]]), (nn.AvgPool2d(2), [[1 / 3, 1 / 3], [0, 1 / 3]])],
)
def test_pools(pool, expected):
    x = torch.tensor([[[[1.0, 1.0], [0.0, -1.0]]]])
    scale = 1 / pool(x)
    found = attribute(pool, x, lambda y: (y * scale).flatten(1).sum(1), rules="dlb").input
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), **CLOSE)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "ceil"), [
    (3, 2, 1, 1, False), (2, 2, 0, 1, True), (3, 1, 1, 2, False), (2, 1, 0, 1, False)])  # fmt: skip
def test_max_pools_of_every_shape_split_ties_and_keep_the_sum(
    kernel, stride, padding, dilation, ceil
):
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    x = torch.randint(1, 3, (2, 3, 7, 7), generator=torch.Generator().manual_seed(0)).double()
    found = attribute(pool, x, lambda y: y.flatten(1).sum(1), rules="dlb")
    y = pool(x)
    expected = torch.zeros_like(x)
    span = [[i * stride - padding + k * dilation for k in range(kernel)] for i in range(y.shape[2])]
    for n in range(2):
        for channel in range(3):
            for i, rows in enumerate(span):
                for j, columns in enumerate(span):
                    cells = [(r, s) for r in rows for s in columns if 0 <= r < 7 and 0 <= s < 7]
                    best = [p for p in cells if x[n, channel][p] == y[n, channel, i, j]]
                    for p in best:
                        expected[n, channel][p] += y[n, channel, i, j] / len(best)
    torch.testing.assert_close(found.input, expected, rtol=0, atol=1e-12)


def test_activation_bounds_drop_one_side():
    layer = linear([[1.0, -2.0]])
    x = torch.tensor([[1.0, 3.0]])  # t = 1 − 6 = −5 < −2: the positive side is dropped

    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return torch.tanh(self.layer(x))

    def logit(out):
        return out[:, 0]

    free = attribute(Bent(), x, logit, rules="dlb")
    bound = attribute(Bent(), x, logit, rules=rule_set("dlb", bounds=True))
    y = torch.tanh(torch.tensor(-5.0))
    torch.testing.assert_close(free.input[0], torch.tensor([1 / 7, 6 / 7]) * y, **CLOSE)
    torch.testing.assert_close(bound.input[0], torch.tensor([0.0, 1.0]) * y, **CLOSE)
