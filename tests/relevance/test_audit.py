"""Conservation module by module, on every kind of network."""

import pytest
import torch

from debride.relevance import attribute, audit

from .networks import Transformer
from .test_ledger import SMALL, small

RULES = (
    "epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box", "attnlrp", "cplrp", "dlb",
)  # fmt: skip


def images(count=3):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", SMALL)
def test_every_module_accounts_for_what_arrives(name, rules):
    found = audit(small(name), images(), 1, rules=rules)
    plain = attribute(small(name), images(), 1, rules=rules)
    assert torch.equal(found.relevance.input, plain.input)
    assert abs(found.relevance.delta) < 1e-9
    assert max(abs(layer.missing) for layer in found.layers) < 1e-9
    total = sum(layer.constants + layer.softmax + layer.lost for layer in found.layers)
    shares = found.relevance.shares
    assert total == pytest.approx(
        shares["constants"] + shares["softmax"] + shares["lost"], abs=1e-9
    )


def test_rows_stand_in_the_order_of_the_forward_and_merged_norms_for_both():
    found = audit(small("residual"), images(), 1, rules="epsilon_plus")
    names = [layer.name for layer in found.layers]
    assert names[:2] == ["bn1", "relu"]
    assert "conv1" not in names
    assert names[-1] == "fc"
    assert next(x for x in found.layers if x.name == "bn1").operators == ("conv2d", "batch_norm")


@pytest.mark.parametrize("fused", [True, False])
def test_joins_are_both_residuals_and_both_products_of_attention(fused):
    torch.manual_seed(0)
    found = audit(Transformer(fused=fused).double().eval(), images(1), 0)
    kinds = [join.operator for join in found.joins]
    assert kinds.count("matmul") == 2
    assert kinds.count("add") == 2
    assert all(min(join.branches) > 0 for join in found.joins)


def test_a_dead_branch_shows():
    class Dead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4, bias=False)
            torch.nn.init.zeros_(self.two.weight)

        def forward(self, x):
            return self.one(x) + self.two(x)

    (join,) = audit(Dead(), torch.rand(2, 4), 0).joins
    assert join.branches[0] > 0
    assert join.branches[1] == 0
