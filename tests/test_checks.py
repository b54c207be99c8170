"""The test against guessing, compared with what guessing really gives."""

import numpy as np
import pytest

from debride.checks import against_chance


@pytest.mark.parametrize(("classes", "images"), [(2, 60), (3, 200), (7, 350)])
def test_guessing_passes_about_once_in_a_hundred(classes: int, images: int) -> None:
    rng = np.random.default_rng(0)
    names = [str(k) for k in range(classes)]
    truth = rng.choice(classes, size=images, p=rng.dirichlet(np.full(classes, 20.0)))
    passed = 0
    for _ in range(1000):
        guesses = np.eye(classes)[rng.choice(classes, size=images)]
        passed += against_chance(guesses, truth, "multiclass", names).passed
    assert passed <= 25


def test_guessing_labels_passes_about_once_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((150, 4)) < [0.1, 0.3, 0.5, 0.2]).astype(np.int64)
    passed = sum(
        against_chance(rng.random(truth.shape), truth, "multilabel", "abcd").passed
        for _ in range(200)
    )
    assert passed <= 4


def test_always_the_same_class_is_guessing() -> None:
    truth = np.array([0] * 90 + [1] * 10)
    found = against_chance(np.eye(2)[np.zeros(100, int)], truth, "multiclass", ("a", "b"))
    assert found.measured["accuracy"] == 0.9
    assert not found.passed
    assert found.better_order is None


def test_a_weak_but_real_network_passes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 500)
    decided = np.where(rng.random(500) < 0.6, truth, 1 - truth)
    assert against_chance(np.eye(2)[decided], truth, "multiclass", ("a", "b")).passed


def test_wrong_order_of_classes_is_recognised() -> None:
    truth = np.repeat([0, 1, 2], 30)
    outputs = np.array([2, 0, 1])[truth]  # output 2 means class 0, and so on
    found = against_chance(np.eye(3)[outputs], truth, "multiclass", ("a", "b", "c"))
    assert not found.passed
    assert found.better_order == ("b", "c", "a")
