from __future__ import annotations

import itertools
import re

import pytest
import safetensors.torch
import torch
from torch import nn

from debride import score
from debride.criteria import Scores
from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.planning.budgets import budget_names, cost_model
from debride.planning.costs import macs_by_module, measure
from debride.planning.goals import read_budget
from debride.planning.groups import find_groups
from debride.planning.make import plan
from debride.surgery import apply

from . import toys

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Wide(nn.Module):
    """Wide enough for budgets of a hundredth."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 60, 3, padding=1)
        self.two = nn.Conv2d(60, 80, 3, padding=1)
        self.three = nn.Linear(80, 40)
        self.head = nn.Linear(40, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(self.one(x).relu()).relu().mean((2, 3))
        return self.head(self.three(x).relu())


@pytest.fixture(scope="module")
def wide() -> tuple[nn.Module, Scores]:
    model = toys.randomise(Wide())
    return model, score(model, [IMAGES], criterion="random")


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Scores]:
    model = build(
        ModelSpec(source="torchvision:resnet18", outputs=3, channels=1, spatial=(32, 32))
    ).eval()
    return model, score(model, [torch.zeros(1, 1, 32, 32)], criterion="random")


def _on_disk(model: nn.Module) -> int:
    return len(safetensors.torch.save(model.state_dict()))


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("kind", ["macs", "params", "bytes", "ratio"])
@pytest.mark.parametrize("ranking", ["global", "layer", "isomorphic"])
def test_a_budget_is_met_within_a_hundredth(
    wide: tuple[nn.Module, Scores], kind: str, kept: float, ranking: str
) -> None:
    model, scores = wide
    asked = 1 - kept if kind == "ratio" else kept
    made = plan(model, scores, IMAGES, ranking=ranking, **{kind: asked})  # type: ignore[arg-type]
    smaller = measure(apply(model, made), IMAGES)
    reached = {
        "macs": smaller.macs / made.before.macs,
        "params": smaller.params / made.before.params,
        "bytes": _on_disk(apply(model, made)) / _on_disk(model),
        "ratio": made.units_kept,
    }
    assert reached[kind] == pytest.approx(kept, abs=0.01)
    assert smaller == made.after
    assert made.made_by[kind] == pytest.approx(asked)


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.2}, {"ratio": 0.3}])
def test_a_budget_is_met_on_a_resnet(
    resnet: tuple[nn.Module, Scores], budget: dict[str, float]
) -> None:
    model, scores = resnet
    made = plan(model, scores, torch.zeros(1, 1, 32, 32), **budget)  # type: ignore[arg-type]
    ((kind, asked),) = budget.items()
    smaller = measure(apply(model, made), torch.zeros(1, 1, 32, 32))
    reached = {"macs": made.macs_kept, "params": made.params_kept, "ratio": 1 - made.units_kept}
    assert reached[kind] == pytest.approx(asked, abs=0.01)
    assert smaller == made.after


def test_more_removed_is_never_more_cost(wide: tuple[nn.Module, Scores]) -> None:
    model, scores = wide
    costs = [
        plan(model, scores, IMAGES, ratio=r).after for r in (0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 0.9)
    ]
    for more, less in itertools.pairwise(costs):
        assert less.macs < more.macs
        assert less.params < more.params
        assert less.bytes < more.bytes
    assert costs[0] == measure(model, IMAGES)


def test_the_least_important_units_go() -> None:
    model = toys.randomise(Wide())
    scores = Scores(
        "made up",
        1,
        {
            "one": torch.arange(60, dtype=torch.float64),
            "two": torch.arange(80, dtype=torch.float64).flip(0),
            "three": torch.ones(40, dtype=torch.float64),
        },
    )
    made = {g.name: g for g in plan(model, scores, IMAGES, ratio=0.5, ranking="layer").groups}
    assert made["one"].keep == tuple(range(30, 60))
    assert made["two"].keep == tuple(range(40))
    assert len(made["three"].keep) == 20


def test_floors_are_honoured() -> None:
    model = toys.randomise(Wide())
    scores = Scores(
        "made up",
        1,
        {
            "one": torch.full((60,), 1e-9, dtype=torch.float64).index_fill(0, torch.tensor(0), 1),
            "two": torch.arange(80, dtype=torch.float64),
            "three": torch.arange(40, dtype=torch.float64),
        },
    )
    made = plan(model, scores, IMAGES, ratio=0.6, floor=0.25)
    assert {g.name: len(g.keep) for g in made.groups}["one"] == 15
    assert all(len(g.keep) >= g.units / 4 for g in made.groups)
    assert min(len(g.keep) for g in plan(model, scores, IMAGES, ratio=0.97, floor=0).groups) >= 1


def test_an_unreachable_budget_names_the_nearest(wide: tuple[nn.Module, Scores]) -> None:
    model, scores = wide
    with pytest.raises(DebrideError, match=r"every group at its floor 0\.\d+ is left") as caught:
        plan(model, scores, IMAGES, macs=0.01, floor=0.3)
    nearest = float(re.findall(r"floor (0\.\d+)", str(caught.value))[0])
    assert plan(model, scores, IMAGES, macs=nearest, floor=0.3).macs_kept == pytest.approx(
        nearest, abs=0.001
    )


def test_a_ratio_out_of_reach_names_the_nearest_and_what_holds_it() -> None:
    model = toys.randomise(toys.Tail(nn.GroupNorm(4, 8)))
    scores = score(model, [IMAGES], criterion="random")
    with pytest.raises(
        DebrideError, match=r"ask for a ratio of 0\.800, of the 4 units of 'first' one stays"
    ):
        plan(model, scores, IMAGES, ratio=0.9)
    assert plan(model, scores, IMAGES, ratio=0.8).units_kept == pytest.approx(0.2)


def test_a_tiny_budget_is_not_met_by_what_is_near_it(wide: tuple[nn.Module, Scores]) -> None:
    model, scores = wide
    with pytest.raises(
        DebrideError, match=r"share of 1e-05 is to be kept.*0\.\d+ is left; .*floor"
    ):
        plan(model, scores, IMAGES, macs=0.00001)


def test_coarse_units_name_the_nearest() -> None:
    model = toys.randomise(toys.Tail(nn.ReLU(), width=2))
    scores = score(model, [IMAGES], criterion="random")
    with pytest.raises(DebrideError, match=r"coarse, the nearest is (1\.000|0\.857)"):
        plan(model, scores, IMAGES, macs=0.93)


@pytest.mark.parametrize("name", ["Volume", "SmallUNet", "Flat", "SqueezeExcite", "Dense"])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_the_predicted_cost_of_nothing_removed_is_the_whole(name: str, kind: str) -> None:
    model = getattr(toys, name)().eval()
    images = torch.zeros(1, 1, 8, 8, 8) if name == "Volume" else IMAGES
    groups = find_groups(model, images).groups
    cost = cost_model(kind, model, groups, images)
    assert cost(torch.zeros(len(groups)).double().numpy()) == getattr(measure(model, images), kind)


def test_macs_are_given_to_the_module_that_spends_them() -> None:
    model = toys.Flat().eval()
    assert macs_by_module(model, IMAGES) == {"conv": 9 * 6 * 64, "hidden": 960, "head": 30}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["Volume", "SmallUNet", "Dense"])
def test_bytes_are_those_of_the_file(name: str) -> None:
    model = getattr(toys, name)().eval()
    images = torch.zeros(1, 1, 8, 8, 8) if name == "Volume" else IMAGES
    groups = find_groups(model, images).groups
    cost = cost_model("bytes", model, groups, images)
    found = cost(torch.zeros(len(groups)).double().numpy())
    assert found == pytest.approx(_on_disk(model), rel=0.005)


def test_costs_in_bytes_count_buffers() -> None:
    found = measure(nn.BatchNorm2d(4), torch.zeros(2, 4, 2, 2))
    assert (found.params, found.bytes) == (8, 4 * 16 + 8)


def test_a_tied_weight_is_counted_once() -> None:
    model = toys.TiedWeights().eval()
    scores = score(model, [IMAGES], criterion="magnitude")
    made = plan(model, scores, IMAGES, ratio=0.5)
    assert made.after == measure(apply(model, made), IMAGES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"macs": 0.5, "params": 0.5}, "one budget, not macs and params"),
        ({"macs": 0.0}, "macs=0.0 is not a fraction"),
        ({"macs": 50.0}, "part that is kept"),
        ({"ratio": 1.0}, "part that is removed"),
        ({"ratio": -0.1}, "part that is removed"),
        ({"macs": float("nan")}, "not a fraction"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(DebrideError, match=words):
        read_budget(**given)


def test_defaults_and_names(wide: tuple[nn.Module, Scores]) -> None:
    assert read_budget(macs=None, params=None) == ("macs", 0.5)
    assert read_budget(ratio=0.0) == ("ratio", 1.0)
    assert set(budget_names()) == {"macs", "params", "bytes", "ratio"}
    model, scores = wide
    with pytest.raises(DebrideError, match="did you mean 'macs'"):
        cost_model("mac", model, (), IMAGES)
    with pytest.raises(DebrideError, match="no ranking 'globl'"):
        plan(model, scores, IMAGES, ranking="globl")


def test_scores_of_another_network_are_refused(wide: tuple[nn.Module, Scores]) -> None:
    with pytest.raises(DebrideError, match=r"do not fit layer '(conv|hidden)'"):
        plan(toys.Flat(), wide[1], IMAGES)
    cut = Scores("random", 1, {n: v[:30] for n, v in wide[1].values.items()})
    with pytest.raises(DebrideError, match=r"do not fit layer '\w+', which has \d+ units"):
        plan(wide[0], cut, IMAGES)
