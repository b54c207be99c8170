"""Calls that are several operators at once, in-place calls on views, layers in odd layouts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from debride.relevance import GradientPass, RelevancePass, attribute, rule_set
from debride.relevance.rules import Epsilon, Flat, RuleSet


class Calls(nn.Module):
    def __init__(self, f) -> None:
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def explained(f, x, **options):
    """Explain the sum of everything that a function returns."""
    target = lambda out: out.flatten(1).sum(1)  # noqa: E731
    return attribute(Calls(f), x, target, strict=True, **options)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


M, V, W = drawn(3, 3, seed=1), drawn(3, seed=2), drawn(3, 4, 4, seed=4)


@pytest.mark.parametrize(
    ("joined", "apart"),
    [
        (lambda x: torch.addmm(x, x @ M, M, beta=2, alpha=3), lambda x: 2 * x + 3 * (x @ M @ M)),
        (lambda x: torch.addmm(V, x, M), lambda x: V + x @ M),
        (lambda x: torch.addcmul(V, x, x.tanh(), value=2), lambda x: V + 2 * (x * x.tanh())),
        (lambda x: torch.addcdiv(x, V, x.exp()), lambda x: x + V / x.exp()),
        (
            lambda x: torch.baddbmm(x[None], x[None], x[None].transpose(1, 2) @ M),
            lambda x: x[None] + x[None] @ (x[None].transpose(1, 2) @ M),
        ),
        (lambda x: torch.baddbmm(x[None], x[None], M[None], beta=0), lambda x: x[None] @ M),
        (lambda x: torch.addmv(x.sum(0), x, V), lambda x: x.sum(0) + x @ V),
        (lambda x: x * x.pow(-0.5).nan_to_num(), lambda x: x * x.detach().pow(-0.5).nan_to_num()),
        (lambda x: x * (x * x).rsqrt(), lambda x: x / (x * x).sqrt()),
    ],
)
def test_joint_calls_equal_their_parts(joined, apart):
    x = drawn(3, 3)
    total = lambda out: out.sum().expand(3) / 3  # noqa: E731
    found = attribute(Calls(joined), x, total, strict=True)
    expected = attribute(Calls(apart), x, total, strict=True)
    torch.testing.assert_close(found.input, expected.input)
    torch.testing.assert_close(found.output, expected.output)
    assert abs(found.delta) < 1e-9


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.norm(dim=(2, 3)),
        lambda x: torch.linalg.vector_norm(x, dim=1),
        lambda x: x.std((2, 3)),
        lambda x: x.var((2, 3)),
    ],
)
def test_norms_and_variances_conserve(f):
    found = explained(f, drawn(2, 3, 4, 4))
    assert found.shares["constants"] == 0
    assert abs(found.delta) < 1e-9


def through_a_slice(x):
    y = x * 1.0
    part = y[:, :2]
    part += 2 * y[:, 1:]
    return y


def through_a_sibling(x):
    y = x * 1.0
    rows, flat = y.view(y.shape[0], 3, 16), y.flatten(1)
    rows[:, 1] = 3 * rows[:, 0]
    rows.mul_(2)
    return flat + y.reshape(y.shape[0], -1)


def through_the_whole(x):
    y = x.permute(0, 2, 3, 1).contiguous()
    turned = y.permute(0, 3, 1, 2)
    y.mul_(3)
    turned.add_(x)
    return turned


def through_relu(x):
    y = x * 1.0
    F.relu(y[:, 1], inplace=True)
    return y


@pytest.mark.parametrize("make", [rule_set, None])
@pytest.mark.parametrize("f", [through_a_slice, through_a_sibling, through_the_whole, through_relu])
def test_in_place_calls_on_views_change_all_that_shares_their_values(f, make):
    x = drawn(2, 3, 4, 4)
    leaf = x.clone().requires_grad_()
    rules = rule_set("epsilon")
    with RelevancePass(rules) if make else GradientPass(rules) as through:
        y = through.current(f(leaf))
    assert through.unknown == {}
    other = x.clone().requires_grad_()
    expected = f(other)
    assert torch.equal(y, expected)
    c = drawn(*expected.shape, seed=3)
    torch.testing.assert_close(
        torch.autograd.grad(y, leaf, c)[0], torch.autograd.grad(expected, other, c)[0]
    )


@pytest.mark.parametrize("method", ["lrp", "gradient"])
@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"logits": y}, lambda y: (y, None)])
def test_outputs_and_taps_that_are_changed_in_place_last(wrap, method):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2).double()
            self.change = Calls(change)

        def forward(self, x):
            return wrap(self.change(self.fc(x)))

    def change(y):
        y.mul_(3)
        y[:, 0].add_(1)
        return y

    torch.manual_seed(0)
    model, x = Last(), drawn(2, 4)
    found = attribute(model, x, 0, method=method, taps=["change"])
    output = 3 * model.fc(x)[:, 0] + 1
    torch.testing.assert_close(found.output, output)
    torch.testing.assert_close(found.input, x * 3 * model.fc.weight[0])
    torch.testing.assert_close(found.taps["change"], torch.stack([output, 0 * output], 1))


@pytest.mark.parametrize("method", ["lrp", "gradient", "ig"])
@pytest.mark.parametrize("count", [1, 2])
def test_batch_norm_before_a_change_of_layout(count, method):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6).double().eval()
    nn.init.normal_(norm.weight)
    head = drawn(25, 6, seed=4)
    x = drawn(count, 6, 5, 5)
    target = lambda out: (out * head).sum((1, 2))  # noqa: E731
    model = nn.Sequential(norm, Calls(lambda y: y.flatten(2).transpose(1, 2)))
    found = attribute(model, x, target, method=method).input
    weight = head.T.reshape(6, 5, 5) * (norm.weight * (1 + norm.eps) ** -0.5)[:, None, None]
    torch.testing.assert_close(found, x * weight)


class Front(nn.Module):
    """Moves the image about before its first layer."""

    def __init__(self, move, layer) -> None:
        super().__init__()
        self.move, self.layer = move, layer

    def forward(self, x):
        return self.layer(self.move(x)).flatten(1)


def patches(x):
    """Cut (B, 1, 4, 4) into rows of 2 × 2 pixels, as many values in another order."""
    return x.view(-1, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4, 4)


def from_patches(r):
    return r.view(-1, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 1, 4, 4)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_flat_relevance_goes_back_to_the_pixels_that_were_read(scale):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    x = drawn(2, 1, 4, 4)
    rules = RuleSet("first", Epsilon(), Epsilon(), first=Flat())
    model = Front(lambda x: patches((x - 1) * scale), layer)
    target = lambda out: out.sum(1)  # noqa: E731
    found = attribute(model, x, target, rules=rules)
    rows = layer(patches((x - 1) * scale)).sum(-1, keepdim=True).expand(-1, -1, 4) / 4
    torch.testing.assert_close(found.input, from_patches(rows))
    assert abs(found.delta) < 1e-9


def test_flat_relevance_of_a_scaled_and_padded_image():
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 2, 2, stride=2).double()
    x = drawn(1, 1, 4, 4)
    rules = RuleSet("first", Epsilon(), Epsilon(), first=Flat())
    model = Front(lambda x: F.pad((x - 0.5) / 0.25, (1, 1, 1, 1)), layer)
    found = attribute(model, x, lambda out: out.sum(1), rules=rules)
    out = layer(F.pad((x - 0.5) / 0.25, (1, 1, 1, 1))).sum(1)
    share = (out / 4).repeat_interleave(2, 1).repeat_interleave(2, 2)  # 6 × 6, a quarter for each
    torch.testing.assert_close(found.input[0], share[:, 1:-1, 1:-1])
    assert found.constants["(border)"] == pytest.approx(float(share.sum() - found.input.sum()))


@pytest.mark.parametrize(
    "f",
    [F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.silu, F.hardswish],
    ids=["gelu", "tanh gelu", "silu", "hardswish"],
)
def test_activations_of_a_known_slope_pass_the_relevance_on(f):
    x = 3 * drawn(4, 9)
    found = explained(lambda x: f(2 * x), x)
    torch.testing.assert_close(found.input, f(2 * x), rtol=1e-12, atol=1e-14)


def test_the_slope_of_an_activation_at_zero_is_its_derivative():
    """x = 0 carries no relevance itself, but what it is made of does."""
    x = torch.tensor([[1.5, -1.5]], dtype=torch.float64)
    for f, slope in ((F.gelu, 0.5), (F.silu, 0.5), (F.hardswish, 0.5), (torch.tanh, 1.0)):
        found = explained(lambda x, f=f: f(x.sum(1, keepdim=True)), x).input
        torch.testing.assert_close(found, slope * x)


@pytest.mark.parametrize("rules", ["attnlrp", "cplrp", "dlb"])
@pytest.mark.parametrize("kind", ["none", "boolean", "added", "causal"])
def test_attention_in_one_call_equals_its_parts(kind, rules):
    mask = {
        "none": None,
        "boolean": drawn(5, 5, seed=3) > -0.5,
        "added": drawn(5, 5, seed=3),
        "causal": torch.ones(5, 5, dtype=torch.bool).tril(),
    }[kind]

    def factors(x):
        return x @ W[0], x @ W[1], x @ W[2]

    def joined(x):
        q, k, v = factors(x)
        if kind == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=0.7)

    def apart(x):
        q, k, v = factors(x)
        scores = (0.7 * q) @ k.mT
        if kind == "added":
            scores = scores + mask
        elif mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ v

    x = drawn(2, 3, 5, 4)
    one, other = (explained(f, x, rules=rules) for f in (joined, apart))
    torch.testing.assert_close(one.input, other.input, rtol=1e-9, atol=1e-10)
    for part in one.shares:
        assert one.shares[part] == pytest.approx(other.shares[part], abs=1e-9)
