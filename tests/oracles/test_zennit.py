"""The same composites as zennit 0.5.1, on the same networks, in float64."""

from functools import partial

import pytest
import torch
import torchvision
from tests.relevance.networks import randomise_norms

from debride.relevance import RuleSet, attribute
from debride.relevance.rules import AlphaBeta, Epsilon, Flat, Gamma, ZBox, ZPlus

zennit = pytest.importorskip("zennit", reason="the oracle zennit is in the extra 'oracles'")

from zennit.attribution import Gradient  # noqa: E402
from zennit.composites import (  # noqa: E402
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
)
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402

EPSILON = 1e-12
"""zennit also puts its ε under sums and pools, where the pass divides by nothing."""

COMPOSITES = {
    "epsilon_plus": (EpsilonPlus, ZPlus(epsilon=EPSILON), None),
    "epsilon_plus_flat": (EpsilonPlusFlat, ZPlus(epsilon=EPSILON), Flat()),
    "epsilon_alpha2_beta1_flat": (
        EpsilonAlpha2Beta1Flat, AlphaBeta(2.0, 1.0, epsilon=EPSILON), Flat()
    ),
    "epsilon_gamma_box": (
        partial(EpsilonGammaBox, -4.0, 4.0), Gamma(0.25, EPSILON), ZBox(-4.0, 4.0, EPSILON)
    ),
}  # fmt: skip
DEEP = ("resnet50", "vgg19")
NETWORKS = {
    "resnet18": ResNetCanonizer,
    "vgg11_bn": VGGCanonizer,
    "resnet50": ResNetCanonizer,
    "vgg19": VGGCanonizer,
}


@pytest.mark.parametrize("rules", COMPOSITES)
@pytest.mark.parametrize(
    "name",
    ["resnet18", "vgg11_bn", *(pytest.param(n, marks=pytest.mark.slow) for n in DEEP)],
)  # fmt: skip
def test_input_relevance_equals_zennits(name, rules):
    torch.manual_seed(0)
    model = randomise_norms(getattr(torchvision.models, name)(num_classes=10)).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # zennit's merged norms still divide by sqrt(1 + eps): 5e-6 for each of 53 layers.
            module.eps = 1e-12
    size = 64 if name in ("resnet50", "vgg19") else 32
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    images = images.clamp(-4, 4)
    composite, rule, first = COMPOSITES[rules]
    ours = attribute(model, images, 4, rules=RuleSet(rules, Epsilon(EPSILON), rule, first)).input
    composite = composite(EPSILON, stabilizer=EPSILON, canonizers=[NETWORKS[name]()])
    with Gradient(model, composite) as attributor:
        # zennit starts with the relevance itself: the logit
        _, theirs = attributor(images.clone(), lambda out: out * torch.eye(10)[[4, 4]].double())
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
