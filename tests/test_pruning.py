from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from debride import apply, prune
from debride.errors import DebrideError
from debride.models.outputs import logits
from debride.planning.costs import measure
from debride.pruning import StepRecord
from debride.recovery import Recovery, begin, recalibrate
from debride.validation import Validation
from planning import toys

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(12, 1, 8, 8, generator=GENERATOR)
LABELS = torch.arange(12) % 3
DATA = [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]


class Net(nn.Module):
    def __init__(self, outputs: int = 3, wrap: Any = lambda y: y) -> None:
        super().__init__()
        self.wrap = wrap
        self.one = nn.Conv2d(1, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.two = nn.Conv2d(64, 80, 3, padding=1, bias=False)
        self.two_norm = nn.BatchNorm2d(80)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(80, outputs)

    def forward(self, x: Tensor) -> Any:
        x = self.two_norm(self.two(self.norm(self.one(x)).relu())).relu().mean((2, 3))
        return self.wrap(self.head(self.drop(x)))


def _net(outputs: int = 3, wrap: Any = lambda y: y) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return toys.randomise(Net(outputs, wrap))


def test_options_go_to_the_criterion_and_are_written_down() -> None:
    given = {"steps": 1, "recovery": None, "evidence": False, "criterion": "ig", "macs": 0.4}
    four = prune(_net(), DATA, DATA, options={"n_steps": 4, "aggregate": "positive"}, **given)
    assert four.plan.made_by["options"] == {"n_steps": 4, "aggregate": "positive"}
    usual = prune(_net(), DATA, DATA, **given)
    assert usual.plan.made_by["options"] == {"n_steps": 8, "aggregate": "abs"}
    plain = prune(_net(), DATA, DATA, **{**given, "criterion": "magnitude"})
    assert "options" not in plain.plan.made_by
    assert [group.keep for group in four.plan.groups] != [g.keep for g in usual.plan.groups]
    with pytest.raises(DebrideError, match="'magnitude' has no option 'n_steps': known: none"):
        prune(_net(), DATA, DATA, criterion="magnitude", options={"n_steps": 4})


def test_what_is_refused_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(),
                        nn.Linear(64, 3))  # fmt: skip
    with pytest.raises(DebrideError, match="take 'magnitude'"):
        prune(net, DATA, DATA, criterion="bn_scale", evidence=False, folder=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_budget_is_reached_in_steps() -> None:
    seen: list[StepRecord] = []
    small = prune(_net(), DATA, DATA, macs=0.4, steps=4, evidence=False, on_step=seen.append)
    assert small.history == tuple(seen)
    assert [record.step for record in seen] == [0, 1, 2, 3, 4]
    assert [r.macs_kept for r in seen] == pytest.approx(
        [0.4 ** (k / 4) for k in range(5)], abs=0.01
    )
    assert seen[0].before_recovery == seen[0].after_recovery
    assert all(0 <= r.before_recovery <= 1 and 0 <= r.after_recovery <= 1 for r in seen)
    before, after = measure(_net(), IMAGES), measure(small.model, IMAGES)
    assert (small.plan.before, small.plan.after) == (before, after)
    assert seen[-1].macs_kept == pytest.approx(after.macs / before.macs, abs=1e-9)
    assert seen[-1].params_kept == pytest.approx(after.params / before.params, abs=1e-9)
    assert seen[-1].units_kept == pytest.approx(small.plan.units_kept, abs=1e-12)


@pytest.mark.parametrize("recovery", ["batchnorm", "mean", "least_squares", "reconstruction"])
def test_one_step_is_the_plan_applied_and_repaired_where_that_is_nearer(recovery: str) -> None:
    small = prune(_net(), DATA, DATA, steps=1, recovery=recovery, evidence=False)
    judge = Validation(_net(), DATA, None, torch.device("cpu"))
    plain = apply(_net(), small.plan)
    repaired = copy.deepcopy(plain)
    begin(recovery, _net(), small.plan.groups, DATA)(repaired, small.plan.groups)
    tried = [repaired, recalibrate(copy.deepcopy(plain), DATA), plain]
    expected = min(tried, key=lambda model: judge.divergence(judge.outputs(model)))
    assert small.model.state_dict().keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(small.model.state_dict()[key], value), key


def test_a_repair_that_diverges_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin_badly(*_: object, **__: object) -> Recovery:
        def repair(model: nn.Module, cut: object) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(torch.inf)

        return repair

    monkeypatch.setattr("debride.pruning.begin", begin_badly)
    small = prune(_net(), DATA, DATA, steps=1, recovery="mean", evidence=False)
    assert torch.equal(small.model(IMAGES), apply(_net(), small.plan)(IMAGES))


def test_without_recovery_the_steps_are_the_plan_applied() -> None:
    small = prune(_net(), DATA, DATA, steps=3, recovery=None, evidence=False)
    assert torch.equal(small.model(IMAGES), apply(_net(), small.plan)(IMAGES))
    assert all(r.before_recovery == r.after_recovery for r in small.history)


@pytest.mark.parametrize("criterion", ["lrp", "magnitude", "random"])
def test_the_original_is_untouched_and_runs_are_repeatable(criterion: str) -> None:
    model = _net().train()
    model.get_submodule("norm").eval()
    model.get_parameter("one.bias").requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    plans = [
        prune(model, DATA, DATA, criterion=criterion, steps=2, evidence=False, seed=5).plan
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [n for n, m in model.named_modules() if not m.training] == ["norm"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["one.bias"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("outputs", "labels", "wrap"),
    [
        (3, LABELS, lambda y: {"logits": y, "extra": 1}),
        (3, LABELS, lambda y: (y, None)),
        (1, LABELS % 2, lambda y: y),
        (1, LABELS % 2, lambda y: y[:, 0]),
        (3, torch.nn.functional.one_hot(LABELS, 3), lambda y: y),
    ],
    ids=["dict", "tuple", "one logit", "flat logit", "several labels"],
)
def test_whatever_the_network_returns(outputs: int, labels: Tensor, wrap: Any) -> None:
    model = _net(outputs, wrap)
    data = [{"image": IMAGES, "label": labels}]
    small = prune(model, data, data, macs=0.5, steps=2)
    assert small.plan.macs_kept == pytest.approx(0.5, abs=0.01)
    assert logits(small.model(IMAGES)).shape == (12, outputs)
    assert small.evidence is not None
    assert small.evidence.images == 12


def test_ratio_and_layer_ranking_cut_every_layer_alike() -> None:
    small = prune(_net(), DATA, DATA, ratio=0.25, ranking="layer", steps=2, evidence=False)
    assert {g.name: len(g.keep) for g in small.plan.groups} == {"one": 48, "two": 60}
    assert small.history[-1].units_kept == 0.75


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"validation": []}, "validation data are empty"),
        ({"validation": [IMAGES]}, "validation data have no labels"),
        ({"reference": []}, "reference data are empty"),
        ({"criterion": "lpr"}, "no criterion 'lpr': did you mean 'lrp'"),
        ({"recovery": "batchnrm"}, "no recovery 'batchnrm': did you mean 'batchnorm'"),
        ({"rules": "epsilonn"}, "did you mean"),
        ({"steps": 0}, "steps=0: give 1 or more"),
        ({"ranking": "globl"}, "no ranking 'globl'"),
        ({"normalise": "shares"}, "no normalisation 'shares'"),
        ({"macs": 0.01, "floor": 0.5}, "every group at its floor"),
        ({"macs": 0.5, "ratio": 0.5}, "give one budget"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_work(change: dict[str, Any], words: str) -> None:
    steps: list[StepRecord] = []
    arguments: dict[str, Any] = {"reference": DATA, "validation": DATA, **change}
    with pytest.raises(DebrideError, match=words):
        prune(_net(), evidence=False, on_step=steps.append, **arguments)
    assert steps == [], "it must be refused before the first step is reported"


def test_nothing_accumulates_from_step_to_step() -> None:
    alive: list[int] = []

    def count(_: StepRecord) -> None:
        gc.collect()
        alive.append(sum(1 for each in gc.get_objects() if type(each) is Tensor))

    prune(_net(), DATA, DATA, macs=0.4, steps=5, evidence=False, on_step=count)
    assert max(alive[2:]) <= alive[2] + 2


def test_batches_that_can_be_gone_through_once_are_refused() -> None:
    with pytest.raises(DebrideError, match="`reference` can be gone through only once"):
        prune(_net(), iter(DATA), DATA)
    with pytest.raises(DebrideError, match="`validation` can be gone through only once"):
        prune(_net(), DATA, (batch for batch in DATA))


def test_each_step_keeps_the_normalisation_that_moves_the_outputs_least() -> None:
    # unrepaired: repaired, both compute what the original does, up to rounding
    cut: dict[str, Any] = {"macs": 0.25, "steps": 1, "recovery": None, "evidence": False}
    both = prune(_net(), DATA, DATA, **cut)
    tried = {
        name: prune(_net(), DATA, DATA, **cut, normalise=name)
        for name in ("share_width", "share_width_rank")
    }
    judge = Validation(_net(), DATA, None, torch.device("cpu"))
    distance = {name: judge.divergence(judge.outputs(p.model)) for name, p in tried.items()}
    best = min(distance, key=lambda name: distance[name])
    assert 2 * distance[best] < max(distance.values())
    assert both.history[-1].normalise == best
    assert both.plan.groups == tried[best].plan.groups


def test_several_budgets_are_met_one_after_the_other(tmp_path: Path) -> None:
    seen: list[tuple[StepRecord, float]] = []
    net = _net()
    whole = measure(net, IMAGES[:1]).macs

    def look(record: StepRecord, model: nn.Module, groups: Any) -> None:
        seen.append((record, measure(model, IMAGES[:1]).macs / whole))
        if record.step == 2 and len(seen) == 3:
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"macs": [0.8, 0.5, 0.2], "evidence": False, "on_network": look}
    with pytest.raises(KeyboardInterrupt):
        prune(net, DATA, DATA, folder=tmp_path / "out", **asked)
    small = prune(net, DATA, DATA, folder=tmp_path / "out", **asked)
    # the second step was not kept when it was looked at, so it is looked at again
    assert [record.step for record, _ in seen] == [0, 1, 2, 2, 3]
    for (_, kept), share in zip(seen, [1.0, 0.8, 0.5, 0.5, 0.2], strict=True):
        assert kept == pytest.approx(share, abs=0.01)
    assert small.plan.made_by["budget"] == {"macs": [0.8, 0.5, 0.2]}
    straight = prune(net, DATA, DATA, **{**asked, "on_network": lambda *_: None})
    assert straight.plan.groups == small.plan.groups


@pytest.mark.parametrize(
    ("macs", "steps", "words"),
    [
        ([], None, "macs \\(none\\): give shares under 1 that fall"),
        ([0.5, 0.5], None, "macs \\(0.5, 0.5\\): give shares"),
        ([1.0, 0.5], None, "give shares under 1"),
        ([0.5, 0.2], 4, "leave steps out"),
    ],
)
def test_several_budgets_that_mean_nothing(
    macs: list[float], steps: int | None, words: str
) -> None:
    with pytest.raises(DebrideError, match=words):
        prune(_net(), DATA, DATA, macs=macs, steps=steps)
