"""Which images each strategy takes, and that a sample is what was asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from debride.data import open_images, sample
from debride.errors import DebrideError
from debride.reference import Members, choose, register_strategy, strategy_names
from debride.reference.registry import strategy_of

RNG = np.random.default_rng


def _members(**seen: Any) -> Members:
    """Give the odd ones of twelve images, of the second of two classes."""
    groups = seen.pop("groups", [None] * 6)
    return Members(np.arange(1, 12, 2), 1, groups, SimpleNamespace(**seen))


def test_sure_and_unsure_ones() -> None:
    probabilities = np.zeros((12, 2))
    probabilities[1::2, 1] = [0.5, 0.9, 0.1, 0.9, 0.7, 0.3]
    members = _members(probabilities=probabilities)
    assert strategy_of("most-confident")(members, 3, RNG(0)).tolist() == [1, 3, 4]
    assert strategy_of("least_confident")(members, 2, RNG(0)).tolist() == [2, 5]
    assert len(strategy_of("least_confident")(members, 50, RNG(0))) == 6


def test_typical_ones_are_near_to_the_mean() -> None:
    features = np.full((12, 2), 100.0)  # the other class has no part in it
    features[1::2] = [[0, 0], [9, 9], [3, 3], [2, 2], [1, 0], [3, 4]]  # mean (3, 3)
    members = _members(features=features)
    assert strategy_of("prototypical")(members, 3, RNG(0)).tolist() == [2, 5, 3]


def test_clusters_are_shown_by_the_image_nearest_to_their_mean() -> None:
    features = np.zeros((12, 2))
    features[1::2] = [[0, 0], [0, 1], [0, 5], [50, 0], [51, 0], [56, 0]]
    members = _members(features=features)
    # means (0, 2) and (52.3, 0)
    assert sorted(strategy_of("clustered")(members, 2, RNG(0)).tolist()) == [1, 4]
    assert sorted(strategy_of("clustered")(members, 9, RNG(0)).tolist()) == list(range(6))


def test_clusters_are_as_good_as_any_choice_of_medoids_can_nearly_be() -> None:
    features = np.random.default_rng(3).normal(size=(12, 4))
    members = _members(features=features)
    own = features[1::2]

    def cost(chosen: Any) -> float:
        distances = ((own[:, None] - own[list(chosen)]) ** 2).sum(2)
        return float(distances.min(1).sum())

    best = min(cost(c) for c in itertools.combinations(range(6), 3))
    assert cost(strategy_of("clustered")(members, 3, RNG(0)).tolist()) < 1.3 * best


def test_images_that_are_alike_are_one_cluster() -> None:
    members = _members(features=np.ones((12, 3)))
    assert len(strategy_of("clustered")(members, 4, RNG(0))) == 1


def test_every_patient_has_its_turn() -> None:
    members = _members(groups=["a", "a", "a", "b", "b", None])
    by_group = strategy_of("by_group")
    for seed in range(5):
        chosen = by_group(members, 5, RNG(seed)).tolist()
        assert {members.groups[place] for place in chosen[:3]} == {"a", "b", None}
        assert Counter(members.groups[place] for place in chosen) == {"a": 2, "b": 2, None: 1}
    with pytest.raises(DebrideError, match="name no patients"):
        by_group(_members(), 2, RNG(0))


class Sum(nn.Module):
    """Says that an image is of class 1 if its mean is above 0; a single feature."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(1, outputs)
        with torch.no_grad():
            self.head.weight[:] = torch.linspace(-1, 1, outputs)[:, None] if outputs > 1 else 1.0
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((1, 2, 3))[:, None])  # type: ignore[no-any-return]


MEANS = torch.tensor([-3.0, 1.0, -1.0, 2.0, 0.5, 3.0, -2.0, -0.5])
LABELS = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
BATCHES = [
    (m[:, None, None, None].expand(-1, 1, 3, 3), y)
    for m, y in zip(MEANS.split(3), LABELS.split(3), strict=True)
]


def _choose(per_class: int, strategy: str, **choices: Any) -> tuple[int, ...]:
    given = {"task": "multiclass", "classes": ("low", "high"), **choices}
    model, data = given.pop("model", None) or Sum(), given.pop("data", BATCHES)
    return choose(model, data, per_class, strategy=strategy, **given).indices


def test_the_networks_own_words_decide() -> None:
    assert _choose(1, "most_confident") == (0, 5)
    assert _choose(1, "least_confident") == (4, 7)
    assert _choose(2, "least_confident") == (1, 2, 4, 7)
    assert _choose(1, "least_confident", correct_only=True) == (1, 2)
    assert _choose(9, "random", correct_only=True) == (0, 1, 2, 3, 5, 6)
    # means of the classes: -1.375 and 1.375
    assert _choose(1, "prototypical") == (1, 2)
    single = {"model": Sum(1), "task": "binary"}
    assert _choose(1, "least_confident", correct_only=True, **single) == (1, 2)


def test_an_image_of_several_labels_is_taken_for_one_that_is_found() -> None:
    both = [(images, torch.stack([1 - y, torch.ones_like(y)], 1)) for images, y in BATCHES]
    given = {"data": both, "task": "multilabel"}
    assert _choose(1, "most_confident", **given) == (0, 5)
    # of the label that all have, those above 0 are found
    assert _choose(9, "random", correct_only=True, **given) == (0, 1, 2, 3, 4, 5, 6)


def test_random_is_what_it_always_was_and_does_not_run_the_network() -> None:
    source = open_images("phantom:60")
    records = source.splits["train"]

    class Never(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise AssertionError("the network has no say")

    for seed in range(3):
        chosen = choose(
            Never(), [], 3, task="multiclass", classes=source.classes, seed=seed,
            labels=[record.label for record in records],
        )  # fmt: skip
        assert list(chosen.indices) == sample(source, "train", 3, seed=seed)
    assert (chosen.strategy, chosen.per_class, chosen.correct_only) == ("random", 3, False)


@pytest.mark.parametrize("strategy", strategy_names())
def test_samples_depend_on_the_seed_alone(strategy: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 1, 4, 4, generator=generator)
    data = [(x, y) for x, y in zip(images.split(16), (torch.arange(60) % 2).split(16), strict=True)]
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2)).train()
    groups = [str(i // 6) for i in range(60)]
    before, state = [p.clone() for p in net.parameters()], torch.get_rng_state()
    first, again = (
        _choose(7, strategy, model=net, data=data, groups=groups, seed=4) for _ in range(2)
    )
    assert first == again == tuple(sorted(set(first)))
    assert Counter(i % 2 for i in first) == {0: 7, 1: 7}
    assert all(module.training for module in net.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_one_of_ones_own() -> None:
    @register_strategy("last_ones")
    def last_ones(members: Members, count: int, rng: np.random.Generator) -> Any:
        return np.arange(len(members))[-count:]

    try:
        assert _choose(1, "last_ones") == (6, 7)
    finally:
        from debride.reference import registry

        registry._STRATEGIES.pop("last_ones")


def test_what_cannot_be_chosen_is_one_sentence() -> None:
    with pytest.raises(DebrideError, match="no reference strategy 'clusterd': did you mean"):
        _choose(1, "clusterd")
    with pytest.raises(DebrideError, match="0 reference images a class: give 1 or more"):
        _choose(0, "random")
    with pytest.raises(DebrideError, match="have no labels"):
        _choose(1, "random", data=[images for images, _ in BATCHES])
    wrong = [(images, 1 - (images.mean((1, 2, 3)) > 0).long()) for images, _ in BATCHES]
    with pytest.raises(DebrideError, match="classifies no training image of 'low' right"):
        _choose(1, "random", data=wrong, correct_only=True)

    def once() -> Iterator[Any]:
        yield from BATCHES

    with pytest.raises(DebrideError, match="`data` can be gone through only once"):
        _choose(1, "random", data=once())


def test_a_single_label_that_images_may_have_is_one_of_several_labels() -> None:
    one = [(images, y[:, None].float()) for images, y in BATCHES]
    found = _choose(99, "random", data=one, task="multilabel")
    assert found == tuple(k for k, y in enumerate(torch.cat([y for _, y in BATCHES])) if y)
