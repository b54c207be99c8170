"""Fine-tuning: a cut network learns from its original, keeps its best, and goes on after a stop."""

from __future__ import annotations

import copy
import itertools
import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from debride import prune
from debride.errors import DebrideError
from debride.learning import EpochRecord
from debride.planning.groups import find_groups
from debride.planning.plan import PlannedGroup
from debride.recovery.distillation import explained, relevance_distance
from debride.recovery.finetune import FineTuned, FineTuning, finetune
from debride.surgery.removal import narrow
from debride.validation import Validation
from planning import toys

CPU = torch.device("cpu")


class Net(nn.Module):
    """Batch norm and dropout, so that statistics and randomness count."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12)
        self.two, self.drop = nn.Conv2d(12, 16, 3), nn.Dropout(0.1)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.norm(self.one(x)).relu()).relu().mean((2, 3))
        return self.head(self.drop(x))  # type: ignore[no-any-return]


def _net(outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return toys.randomise(Net(outputs)).eval()


def _images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 10, 10, generator=torch.Generator().manual_seed(seed))


def _loader(images: Tensor, labels: Tensor, *, shuffle: bool = True) -> DataLoader[Any]:
    own = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(images, labels), 16, shuffle=shuffle, generator=own)


def _cut(net: nn.Module, every: int = 2) -> tuple[nn.Module, tuple[PlannedGroup, ...]]:
    groups = find_groups(net, _images(1, 0)).groups
    cut = tuple(group.planned(range(0, group.units, every)) for group in groups)
    small = copy.deepcopy(net)
    narrow(small, cut)
    return small, cut


class Case:
    """An original, what is left of it, and what the original says of images."""

    def __init__(self, outputs: int = 3, task: Any = "multiclass") -> None:
        self.net, self.task = _net(outputs), task
        self.small, self.groups = _cut(self.net)
        self.train = _loader(_images(96, 1), self._labels(96, 1))
        self.judge = Validation(
            self.net, _loader(_images(64, 2), self._labels(64, 2), shuffle=False), task, CPU
        )

    def _labels(self, count: int, seed: int) -> Tensor:
        with torch.no_grad():
            outputs = self.net(_images(count, seed))
        outputs = outputs - outputs.mean(0)
        if self.task == "multiclass":
            return outputs.argmax(1)
        present = (outputs > 0).long()
        return present[:, 0] if self.task == "binary" else present

    def tune(self, **choices: Any) -> FineTuned:
        names = FineTuning.__dataclass_fields__
        settings = {
            "epochs": 4,
            "rate": 0.01,
            **{k: choices.pop(k) for k in names.keys() & choices.keys()},
        }
        given = {"task": self.task, "groups": self.groups, **choices}
        data, measure = given.pop("data", self.train), given.pop("measure", self.judge.measured)
        return finetune(self.small, self.net, data, measure, FineTuning(**settings), **given)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("outputs", "task"), [(3, "multiclass"), (4, "multilabel"), (1, "binary")])
def test_the_outputs_come_near_to_the_originals(outputs: int, task: str) -> None:
    case = Case(outputs, task)
    before = case.judge.measured(case.small)
    unlabelled = [images for images, _ in case.train]
    seen: list[EpochRecord] = []
    result = case.tune(data=unlabelled, epochs=8, on_epoch=seen.append)
    after = case.judge.measured(case.small)
    assert after[1] < 0.3 * before[1]
    assert (result.before, result.after) == (before[0], after[0])
    assert result.history == tuple(seen)
    assert (result.epochs, result.steps, len(seen)) == (8, 6, 8)
    best = min(seen, key=lambda record: record.validation_loss)
    assert (result.best_epoch, best.metric) == (best.epoch, after[0])


def test_where_no_epoch_is_better_the_network_stays_as_it_was() -> None:
    case = Case()
    before = _state(case.small)
    measured = iter([(0.9, 0.1), *[(0.95, 0.2)] * 30])  # right more often, by luck
    result = case.tune(epochs=30, measure=lambda _: next(measured))
    assert (result.best_epoch, result.after) == (0, 0.9)
    assert len(result.history) == 10, "a third of the epochs without a better one is enough"
    assert _same(before, _state(case.small))
    by_labels = iter([(0.9, 0.1), (0.91, 0.3), (0.91, 0.2), (0.8, 0.0)])
    assert case.tune(epochs=3, labels=0.5, measure=lambda _: next(by_labels)).best_epoch == 2


def test_everything_else_stays_as_it_was() -> None:
    case = Case()
    case.net.train().to(memory_format=torch.channels_last)
    case.net.get_parameter("one.bias").requires_grad_(False)
    original, state = _state(case.net), torch.get_rng_state()
    case.tune(epochs=1, features=0.5, relevance=0.5, labels=0.5)
    assert _same(original, _state(case.net))
    assert all(module.training for module in case.net.modules())
    frozen = [n for n, p in case.net.named_parameters() if not p.requires_grad]
    assert frozen == ["one.bias"]
    assert all(p.grad is None for p in case.net.parameters())
    kernels = case.net.get_parameter("two.weight")
    assert kernels.is_contiguous(memory_format=torch.channels_last)
    for model in (case.net, case.small):
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_minutes_are_counted_without_a_last_batch_of_one_image() -> None:
    images = torch.randn(33, 1, 3, 3, generator=torch.Generator().manual_seed(3))
    # 1 × 1 maps after the first convolution: batch norm refuses a single image of them
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    small = copy.deepcopy(net)
    data = _loader(images, torch.zeros(33, dtype=torch.long))
    found = finetune(
        small,
        net,
        data,
        lambda _: (0.5, 1.0),
        FineTuning(epochs=None, minutes=0.01, rate=0.01),
        task="multiclass",
    )
    assert found.steps in (1, 2, 3)


@pytest.mark.parametrize("stop_after", [1, 3])
@pytest.mark.parametrize("minutes", [None, 7.0])
def test_an_interrupted_fine_tuning_ends_with_the_same_weights(
    tmp_path: Path, stop_after: int, minutes: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget: dict[str, Any] = {} if minutes is None else {"epochs": None, "minutes": minutes}
    monkeypatch.setattr("debride.recovery.finetune.fitting", lambda *_: (4, 5))
    whole = Case()
    expected = whole.tune(folder=tmp_path / "whole", relevance=0.2, **budget)
    assert (len(expected.history), expected.steps) == (4, 6 if minutes is None else 5)

    def stop(record: EpochRecord) -> None:
        if record.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Case().tune(folder=tmp_path / "cut", relevance=0.2, on_epoch=stop, **budget)
    # the machine is slower now: what was begun is finished as it was planned
    monkeypatch.setattr("debride.recovery.finetune.fitting", lambda *_: (1, 1))
    resumed = Case()
    result = resumed.tune(folder=tmp_path / "cut", relevance=0.2, **budget)
    assert _same(_state(whole.small), _state(resumed.small))
    assert result.before == expected.before
    assert [r.loss for r in result.history] == [r.loss for r in expected.history]
    with pytest.raises(DebrideError, match=r"training with rate 0\.01 instead of 0\.02"):
        Case().tune(folder=tmp_path / "cut", relevance=0.2, rate=0.02, **budget)


def test_minutes_become_epochs_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which whatever is timed, a batch or a validation, takes a tenth of a second."""
    readings = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: next(readings) * 0.1)
    monkeypatch.setattr("debride.recovery.finetune.time", clock)
    short = Case().tune(epochs=None, minutes=0.3 / 60)
    assert (short.epochs, short.steps, len(short.history)) == (1, 2, 1)
    longer = Case().tune(epochs=None, minutes=2.15 / 60)  # of 6 batches and a validation
    assert (longer.epochs, longer.steps) == (3, 6)


def test_the_features_compared_are_those_that_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 3))
    net = toys.randomise(net).eval()
    small, groups = _cut(net)
    distances: list[tuple[Tensor, Tensor]] = []

    def seen(student: Tensor, teacher: Tensor) -> Tensor:
        distances.append((student.detach().clone(), teacher))
        return student.sum() * 0

    monkeypatch.setattr("debride.recovery.finetune.feature_distance", seen)
    settings = FineTuning(epochs=1, features=1.0)
    images = _images(8, 1)
    finetune(small, net, [images], lambda _: (1.0, 0.0), settings, task="multiclass", groups=groups)
    ((student, teacher),) = distances
    maps = net[1](net[0](images))[:, ::2].flatten(1).detach()
    torch.testing.assert_close(student, maps)
    torch.testing.assert_close(teacher, maps)


def _likeness(case: Case) -> float:
    """Return the mean cosine of the heatmaps of images that were not learned from."""
    images = _images(32, 5)
    target = case.net(images).argmax(1)
    theirs, own = (
        explained(model.eval(), images, target, differentiable=False)[1]
        for model in (case.net, case.small)
    )
    return 1 - float(relevance_distance(own, theirs))


def test_relevance_matching_keeps_it_looking_at_the_same_places() -> None:
    without, matched = Case(), Case()
    for case, weight in ((without, 0.0), (matched, 3.0)):
        fall = itertools.count()  # the last epoch of each is taken
        case.tune(epochs=30, relevance=weight, measure=lambda _: (0.0, -float(next(fall))))  # noqa: B023
    assert _likeness(matched) > _likeness(without) + 0.05


def test_labels_teach_what_the_original_does_not_know() -> None:
    case, other = Case(), Case()
    turned = (case.train.dataset.tensors[1] + 1) % 3  # type: ignore[attr-defined]
    data = _loader(_images(96, 1), turned)
    judged = Validation(case.net, _loader(_images(96, 1), turned, shuffle=False), None, CPU)
    given = {"data": data, "epochs": 20, "rate": 0.03, "measure": judged.measured}
    assert case.tune(labels=1.0, **given).after > other.tune(**given).after + 0.3
    with pytest.raises(DebrideError, match="hold no labels"):
        case.tune(data=[_images(4, 1)], labels=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "either epochs or minutes: give one"),
        ({"epochs": 1, "minutes": 1.0}, "either epochs or minutes: give one"),
        ({"epochs": 0}, "epochs=0: give 1 or more"),
        ({"minutes": 0.0}, "minutes=0.0: give more than 0"),
        ({"epochs": 1, "labels": 1.5}, "labels=1.5: give 0 to 1"),
        ({"epochs": 1, "temperature": 0.0}, "temperature=0.0: give more than 0"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DebrideError, match=words):
        FineTuning(**settings)


def test_data_that_cannot_be_learned_from() -> None:
    with pytest.raises(DebrideError, match="`data` can be gone through only once"):
        Case().tune(data=iter([_images(4, 1)]))
    with pytest.raises(DebrideError, match="no training images"):
        Case().tune(data=[])
    case = Case()
    before = _state(case.small)
    with pytest.raises(DebrideError, match="give a lower learning rate"):
        case.tune(data=[_images(4, 1) * float("nan")])
    assert before.keys() == _state(case.small).keys()


def test_pruning_ends_with_it(tmp_path: Path) -> None:
    case = Case()
    cut: dict[str, Any] = {"ratio": 0.75, "steps": 1, "recovery": None, "evidence": False}
    plain = prune(case.net, case.train, case.judge.data, **cut)
    tuning = FineTuning(epochs=6, rate=0.01)
    unlabelled = [images for images, _ in case.train]
    tuned = prune(
        case.net, case.train, case.judge.data, **cut, finetune=tuning, finetune_data=unlabelled
    )
    assert plain.finetuned is None
    assert tuned.finetuned is not None
    assert tuned.finetuned.settings == tuning
    assert tuned.plan == plain.plan
    before, after = case.judge.measured(plain.model), case.judge.measured(tuned.model)
    assert (tuned.finetuned.before, tuned.finetuned.after) == (before[0], after[0])
    assert after[1] < 0.5 * before[1]
    short = prune(case.net, case.train, case.judge.data, **cut, finetune=1)
    assert short.finetuned is not None
    assert short.finetuned.settings == FineTuning(epochs=1)
    tuned.save(tmp_path / "tuned")
    run = json.loads((tmp_path / "tuned/run.json").read_text())
    assert [epoch["epoch"] for epoch in run["finetuning"]["history"]] == [1, 2, 3, 4, 5, 6]
