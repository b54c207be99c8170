"""The same composites as zennit 0.5.1, on the same networks, in float64."""

import pytest
import torch
import torchvision
from tests.relevance.networks import randomise_norms

from debride.relevance import RuleSet, attribute
from debride.relevance.rules import Epsilon, Flat, ZPlus

zennit = pytest.importorskip("zennit", reason="the oracle zennit is in the extra 'oracles'")

from zennit.attribution import Gradient  # noqa: E402
from zennit.composites import EpsilonPlus, EpsilonPlusFlat  # noqa: E402
from zennit.torchvision import ResNetCanonizer, VGGCanonizer  # noqa: E402

EPSILON = 1e-12
"""zennit also puts its ε under sums and pools, where the pass divides by nothing."""

COMPOSITES = {
    "epsilon_plus": (EpsilonPlus, None),
    "epsilon_plus_flat": (EpsilonPlusFlat, Flat()),
}
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
    composite, first = COMPOSITES[rules]
    ours = attribute(
        model, images, 4, rules=RuleSet(rules, Epsilon(EPSILON), ZPlus(epsilon=EPSILON), first)
    ).input
    composite = composite(EPSILON, stabilizer=EPSILON, canonizers=[NETWORKS[name]()])
    with Gradient(model, composite) as attributor:
        # zennit starts with the relevance itself: the logit
        _, theirs = attributor(images.clone(), lambda out: out * torch.eye(10)[[4, 4]].double())
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
