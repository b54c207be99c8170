"""Metrics against scikit-learn, and bounds on their drop against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from debride.errors import DebrideError
from debride.metrics import drop_bound, measure, read_metric

RNG = np.random.default_rng(0)


def _case(classes: int, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.tensor(RNG.integers(0, classes, count))
    columns = 1 if classes == 1 else classes
    outputs = torch.tensor(RNG.normal(size=(count, columns))).round(decimals=1)  # with ties
    outputs[torch.arange(count), labels] += 0.8
    return outputs, labels


def test_several_classes_as_scikit_learn_has_them() -> None:
    outputs, labels = _case(4)
    chosen = outputs.argmax(1)
    found = {
        name: float(measure(name, outputs, labels, "multiclass")[0])
        for name in ("balanced_accuracy", "auc", "recall:2")
    }
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, chosen))
    expected = roc_auc_score(labels, outputs.softmax(1), multi_class="ovr", average="macro")
    assert found["auc"] == pytest.approx(expected, abs=1e-12)
    assert found["recall:2"] == pytest.approx(recall_score(labels == 2, chosen == 2))


def test_a_single_logit() -> None:
    labels = torch.tensor(RNG.integers(0, 2, 100))
    outputs = torch.tensor(RNG.normal(size=(100, 1))) + labels[:, None]
    auc = float(measure("auc", outputs, labels, "binary")[0])
    assert auc == pytest.approx(roc_auc_score(labels, outputs[:, 0]), abs=1e-12)
    recall = float(measure("recall:1", outputs, labels, "binary")[0])
    assert recall == pytest.approx(recall_score(labels, outputs[:, 0] > 0))
    balanced = float(measure("balanced_accuracy", outputs, labels, "binary")[0])
    assert balanced == pytest.approx(balanced_accuracy_score(labels, outputs[:, 0] > 0))


def test_several_labels_at_once() -> None:
    labels = torch.tensor(RNG.integers(0, 2, (120, 3)))
    outputs = torch.tensor(RNG.normal(size=(120, 3))) + labels
    auc = float(measure("auc", outputs, labels, "multilabel")[0])
    assert auc == pytest.approx(roc_auc_score(labels, outputs, average="macro"), abs=1e-12)
    each = [balanced_accuracy_score(labels[:, k], outputs[:, k] > 0) for k in range(3)]
    balanced = float(measure("balanced_accuracy", outputs, labels, "multilabel")[0])
    assert balanced == pytest.approx(np.mean(each))


@pytest.mark.parametrize("name", ["balanced_accuracy", "auc", "recall:1"])
def test_weights_are_repeated_images(name: str) -> None:
    outputs, labels = _case(3, 60)
    weights = RNG.integers(0, 4, (2, 60)).astype(np.float64)
    found = measure(name, outputs, labels, "multiclass", weights)
    for row, value in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(60), row.astype(int))
        alone = measure(name, outputs[rows], labels[rows], "multiclass")
        assert value == pytest.approx(float(alone[0]), abs=1e-12)


def test_classes_without_images_have_no_part() -> None:
    outputs = torch.eye(3)[[0, 1, 0]]
    assert measure("balanced_accuracy", outputs, torch.tensor([0, 1, 1]), "multiclass")[0] == 0.75
    assert measure("auc", outputs[:, :1], torch.tensor([1, 1, 1]), "binary")[0] == 0.5


def test_the_bound_is_that_of_a_paired_normal_interval() -> None:
    """Of 1000 images a class, 40 are lost and 20 gained: known mean and variance."""
    labels = torch.arange(2).repeat_interleave(1000)
    before = torch.nn.functional.one_hot(labels).double()
    after = before.clone()
    for begin in (0, 1000):
        before[begin : begin + 20] = before[begin : begin + 20].flip(1)  # gained
        after[begin + 20 : begin + 60] = after[begin + 20 : begin + 60].flip(1)  # lost
    drop, variance = 0.02, (0.06 - 0.02**2) / 1000 / 2
    found = drop_bound("balanced_accuracy", before, after, labels, "multiclass")
    assert found == pytest.approx(drop + 1.645 * math.sqrt(variance), abs=0.001)
    half = drop_bound("balanced_accuracy", before, after, labels, "multiclass", confidence=0.5)
    assert half == pytest.approx(drop, abs=0.0005)


def test_the_bound_is_repeatable_and_rises_with_confidence() -> None:
    outputs, labels = _case(3)
    worse = outputs + torch.tensor(RNG.normal(size=outputs.shape))
    found = [
        drop_bound("auc", outputs, worse, labels, "multiclass", confidence=c)
        for c in (0.5, 0.8, 0.95, 0.95, 0.99)
    ]
    assert found == sorted(found)
    assert found[2] == found[3]
    assert found[0] < found[1] < found[2] < found[4]
    assert drop_bound("auc", outputs, outputs, labels, "multiclass") == 0


def test_the_bound_of_several_labels() -> None:
    labels = torch.tensor(RNG.integers(0, 2, (80, 3)))
    outputs = torch.tensor(RNG.normal(size=(80, 3))) + 2 * labels
    bound = drop_bound("auc", outputs, torch.zeros(80, 3), labels, "multilabel")
    drop = float(measure("auc", outputs, labels, "multilabel")[0]) - 0.5
    assert drop < bound < drop + 0.1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("recall:measles", "no class 'measles': the classes are healthy, flu"),
        ("recall:2", "no class '2'"),
        ("recall", "no metric 'recall': known: balanced_accuracy, auc, recall:CLASS"),
        ("f1", "no metric 'f1'"),
    ],
)
def test_unknown_metrics_are_named(name: str, words: str) -> None:
    assert read_metric("recall:flu", ("healthy", "flu")) == "recall:1"
    assert read_metric("recall:0", ("healthy", "flu")) == "recall:0"
    with pytest.raises(DebrideError, match=words):
        read_metric(name, ("healthy", "flu"))
