"""What a pass cannot follow is said in one sentence, with the module."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from debride.errors import DebrideError
from debride.relevance import attribute

IMAGES = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
WITH_GRADIENTS = ("lrp", "dlb", "gradient", "smoothgrad", "ig", "gradcam")


class Inner(nn.Module):
    """Does something to what it is given, in a network with two branches or one."""

    def __init__(self, does) -> None:
        super().__init__()
        self.conv, self.does = nn.Conv2d(1, 3, 3, padding=1), does

    def forward(self, x):
        return self.does(self.conv(x))


class Net(nn.Module):
    def __init__(self, does, *, around: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.around = Inner(does), nn.Conv2d(1, 3, 1) if around else None
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        y = self.inner(x)
        if self.around is not None:
            y = y + self.around(x)
        return self.head(y.mean((2, 3)))


def without_grad(y):
    with torch.no_grad():
        return y.relu() * 2


LEAVES = {
    "torch.no_grad()": without_grad,
    "Tensor.data": lambda y: y.data * 2,
    "NumPy": lambda y: torch.as_tensor(np.tanh(y.detach().numpy())),
    "Python numbers": lambda y: torch.tensor(y.tolist()),
    "Tensor.detach()": lambda y: y.detach().relu(),
}


@pytest.mark.parametrize("method", WITH_GRADIENTS)
@pytest.mark.parametrize("how", LEAVES)
def test_an_output_without_gradient_names_the_module_that_left(how, method):
    said = f"the module 'inner' leaves autograd by {how}; take that out, or use method='occlusion'"
    with pytest.raises(DebrideError, match=re.escape(said)):
        attribute(Net(LEAVES[how], around=False), IMAGES, 0, method=method)


@pytest.mark.parametrize("method", ["lrp", "dlb", "gradient", "smoothgrad", "ig"])
@pytest.mark.parametrize("how", [how for how in LEAVES if how != "Tensor.detach()"])
def test_one_branch_that_left_is_named_or_raised(how, method):
    net = Net(LEAVES[how], around=True)
    assert attribute(net, IMAGES, 0, method=method).unknown == {how: ["inner"]}
    said = f"the module 'inner' leaves autograd by {how}, through which no relevance passes"
    with pytest.raises(DebrideError, match=re.escape(said)):
        attribute(net, IMAGES, 0, method=method, strict=True)


def test_what_left_is_a_constant_of_the_account():
    found = attribute(Net(without_grad, around=True), IMAGES, 0)
    assert abs(found.delta) < 1e-6
    assert found.constants["Net"] != 0


def test_a_branch_detached_on_purpose_and_numbers_that_only_decide_are_no_fault():
    def does(y):
        scale = y.detach().abs().amax((1, 2, 3), keepdim=True)
        if float(y.max()) > y.detach().mean().item() and y.argmax() >= 0:
            y = y / scale
        return y + y.detach()

    assert attribute(Net(does, around=True), IMAGES, 0, strict=True).unknown == {}


def test_values_changed_behind_autograds_back_are_named():
    def does(y):
        y.data.mul_(2)
        return y

    assert attribute(Net(does, around=False), IMAGES, 0).unknown == {"Tensor.data": ["inner"]}


def test_inference_mode_inside_a_forward_is_named():
    def does(y):
        with torch.inference_mode():
            return y * 2

    with pytest.raises(DebrideError, match=r"'inner' runs under torch.inference_mode\(\)"):
        attribute(Net(does, around=True), IMAGES, 0)


def compiled() -> nn.Module:
    net = Net(torch.relu, around=True)
    net.inner.compile()
    return net


def scripted() -> nn.Module:
    net = Net(torch.relu, around=True)
    net.around = torch.jit.script(net.around)
    return net


@pytest.mark.parametrize("method", ["lrp", "dlb", "dlb_contrastive"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (scripted, "the module 'around' is TorchScript"),
        (compiled, "the module 'inner' is compiled"),
        (lambda: torch.compile(Net(torch.relu, around=True)), "the network is compiled"),
    ],
)
def test_scripted_and_compiled_modules_are_refused(make, said, method):
    with pytest.raises(DebrideError, match=said):
        attribute(make(), IMAGES, 0, method=method)


def test_gradient_methods_go_through_a_scripted_module():
    plain = attribute(Net(torch.relu, around=True), IMAGES, 0, method="gradient")
    assert torch.equal(attribute(scripted(), IMAGES, 0, method="gradient").input, plain.input)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, c):
        return 2 * c


@torch.jit.script
def twice(x: torch.Tensor) -> torch.Tensor:
    return x.cosh() * 2


compiled_relu = torch.compile(lambda x: x.relu() * 2, backend="aot_eager")


class Hides(nn.Module):
    def forward(self, x):
        return twice(x)


@pytest.mark.parametrize(
    ("does", "name", "place"),
    [
        (Double.apply, "autograd.Function Double", "inner"),
        (Hides(), "scripted function twice", "inner.does"),
    ],
)
def test_code_without_torch_calls_is_named_or_raised(does, name, place):
    net = Net(does, around=True)
    assert attribute(net, IMAGES, 0).unknown == {name: [place]}
    said = re.escape(f"cannot see into {name} (in module '{place}')")
    with pytest.raises(DebrideError, match=said):
        attribute(net, IMAGES, 0, strict=True)


def test_a_compiled_function_runs_uncompiled_inside_the_pass():
    compiled_relu(torch.randn(2, 3, 4, 4, requires_grad=True))
    plain = attribute(Net(lambda y: y.relu() * 2, around=True), IMAGES, 0, rules="epsilon_plus")
    found = attribute(Net(compiled_relu, around=True), IMAGES, 0, rules="epsilon_plus", strict=True)
    assert torch.equal(found.input, plain.input)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("method", ["lrp", "dlb", "ig", "gradcam"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_is_named_with_its_module(method, reentrant):
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(1, 1, 1), Net(torch.relu, around=True)

        def forward(self, x):
            return checkpoint(self.body, self.stem(x), use_reentrant=reentrant)

    with pytest.raises(DebrideError, match=r"'body' runs under activation checkp.*turn it off"):
        attribute(Saving(), IMAGES, 0, method=method)
