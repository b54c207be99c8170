"""The same explanations as captum's, on the same networks, in float64."""

import pytest
import torch
from torch import nn

from debride.relevance import attribute

captum = pytest.importorskip("captum", reason="the oracle captum is in the extra 'oracles'")

from captum.attr import (  # noqa: E402
    IntegratedGradients,
    LayerConductance,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)

STEPS = 12
LAYERS = ("0", "2", "5")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10), nn.ReLU(), nn.Linear(10, 3),
    ).double().eval()  # fmt: skip


IMAGES = torch.randn(3, 2, 11, 11, generator=torch.Generator().manual_seed(1)).double()
TARGET = torch.tensor([2, 0, 1])
BASELINE = torch.randn(3, 2, 11, 11, generator=torch.Generator().manual_seed(2)).double()


def close(ours, theirs, relative):
    theirs = theirs.detach()
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


@pytest.mark.parametrize(
    ("rule", "method"), [("left", "riemann_left"), ("gausslegendre", "gausslegendre")]
)
def test_integrated_gradients(rule, method):
    model = network()
    ours = attribute(
        model, IMAGES, TARGET, method="ig", n_steps=STEPS, rule=rule, baseline=BASELINE
    )
    theirs, delta = IntegratedGradients(model).attribute(
        IMAGES, BASELINE, TARGET, n_steps=STEPS, method=method, return_convergence_delta=True
    )
    close(ours.input, theirs, 1e-6)
    close(-ours.deltas, delta, 1e-4)


@pytest.mark.parametrize("method", ["riemann_left", "riemann_trapezoid", "gausslegendre"])
def test_conductance_of_all_layers_from_one_sweep(method):
    model = network()
    if method == "gausslegendre":
        options = {"rule": "gausslegendre", "n_steps": STEPS + 1}
    else:  # captum's points: n + 1 of them, of which the left ones stop short of the image
        last = 1 - 1 / (STEPS + 1) if method == "riemann_left" else 1
        options = {"rule": "left", "points": torch.linspace(0, last, STEPS + 1).tolist()}
    ours = attribute(model, IMAGES, TARGET, method="ig", taps=LAYERS, **options).taps
    for layer in LAYERS:
        theirs = LayerConductance(model, model.get_submodule(layer)).attribute(
            IMAGES, 0, TARGET, n_steps=STEPS, method=method
        )
        close(ours[layer], theirs, 1e-6)


@pytest.mark.parametrize("relu", [False, True])
def test_grad_cam(relu):
    model = network()
    ours = attribute(model, IMAGES, TARGET, method="gradcam", layer="2", relu=relu)
    theirs = LayerGradCam(model, model[2]).attribute(IMAGES, TARGET, relu_attributions=relu)
    close(ours.taps["2"][:, None], theirs, 1e-6)
    scaled = torch.nn.functional.interpolate(theirs, (11, 11), mode="bilinear")
    close(ours.input, scaled.expand_as(IMAGES), 1e-6)


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 4), ((5, 2), (2, 1)), (11, 11)])
def test_occlusion_in_two_dimensions(window, stride):
    model = network()
    ours = attribute(
        model, IMAGES, TARGET, method="occlusion", window=window, stride=stride, baseline=0.3
    )
    pair = window if isinstance(window, tuple) else (window, window)
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    theirs = Occlusion(model).attribute(IMAGES, (2, *pair), (2, *steps), 0.3, TARGET)
    close(ours.input, theirs, 1e-6)


def test_occlusion_in_three_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2))
    volume = torch.randn(2, 1, 6, 5, 7, generator=torch.Generator().manual_seed(3))
    model(volume)
    ours = attribute(model, volume, 1, method="occlusion", window=(3, 2, 4), stride=(2, 1, 3))
    theirs = Occlusion(model.eval()).attribute(volume, (1, 3, 2, 4), (1, 2, 1, 3), 0, 1)
    close(ours.input, theirs, 1e-5)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_smoothgrad_without_noise_and_on_average():
    model = network()
    clean = Saliency(model).attribute(IMAGES, TARGET, abs=False)
    ours = attribute(
        model, IMAGES, TARGET, method="smoothgrad", n_samples=2, noise=0, times_input=False
    )
    close(ours.input, clean, 1e-12)
    image, deviation = IMAGES[:1], float(IMAGES[0].max() - IMAGES[0].min()) * 0.1
    ours = attribute(
        model, image, 2, method="smoothgrad", n_samples=2000, noise=0.1, times_input=False
    )
    torch.manual_seed(0)
    theirs = NoiseTunnel(Saliency(model)).attribute(
        image, nt_type="smoothgrad", nt_samples=2000, stdevs=deviation, target=2, abs=False,
        nt_samples_batch_size=500,
    )  # fmt: skip
    close(ours.input, theirs, 0.1)
