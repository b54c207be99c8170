import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from debride.evidence.task import compare_decisions, decide, performance


def softmax(values: np.ndarray) -> np.ndarray:
    exponent = np.exp(values)
    return exponent / exponent.sum(axis=1, keepdims=True)


def test_multiclass_numbers_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 300, p=[0.6, 0.2, 0.15, 0.05])
    p = softmax(rng.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels])
    measured = performance(p, labels, "multiclass", "abcd", "test")
    chosen = p.argmax(axis=1)
    assert measured["accuracy"] == accuracy_score(labels, chosen)
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, chosen))
    assert measured["recall"] == pytest.approx(recall_score(labels, chosen, average=None))
    assert measured["roc_auc"] == pytest.approx(
        roc_auc_score(labels, p, multi_class="ovr", average="macro")
    )
    assert measured["roc_auc_missing"] is None
    assert measured["support"] == np.bincount(labels).tolist()


def test_binary_auc_is_that_of_the_positive_class():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    positive = np.clip(0.4 * labels + rng.uniform(0, 0.6, 200), 0, 1)
    measured = performance(
        np.stack([1 - positive, positive], axis=1), labels, "binary", ("no", "yes"), "test"
    )
    assert measured["roc_auc"] == pytest.approx(roc_auc_score(labels, positive))
    assert measured["recall"][1] == pytest.approx(
        ((positive > 0.5) & (labels == 1)).sum() / labels.sum()
    )


def test_a_class_without_images_leaves_auc_out_and_says_why():
    p = softmax(np.random.default_rng(0).normal(size=(20, 3)))
    measured = performance(p, np.arange(20) % 2, "multiclass", ("a", "b", "rare"), "test")
    assert measured["roc_auc"] is None
    assert measured["roc_auc_missing"] == "no image of 'rare' in the test split"
    assert measured["recall"][2] is None
    assert measured["support"] == [10, 10, 0]
    # as scikit-learn does, the mean is over the classes that are there
    assert measured["balanced_accuracy"] == pytest.approx(np.mean(measured["recall"][:2]))


def test_multilabel_numbers_by_hand():
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    p = np.array([[0.9, 0.2], [0.4, 0.8], [0.1, 0.3], [0.7, 0.6]])
    measured = performance(p, labels, "multilabel", ("x", "y"), "test")
    assert measured["accuracy"] == 4 / 8
    assert measured["recall"] == [0.5, 0.5]
    assert measured["balanced_accuracy"] == 0.5
    assert measured["roc_auc"] == pytest.approx(
        np.mean([roc_auc_score(labels[:, k], p[:, k]) for k in range(2)])
    )


def test_multilabel_with_a_label_on_every_image():
    labels = np.array([[1, 0], [1, 1]])
    measured = performance(np.full((2, 2), 0.9), labels, "multilabel", ("x", "y"), "val")
    assert measured["roc_auc_missing"] == "every image of the val split is 'x'"
    # x: sensitivity 1 and no negatives; y: sensitivity 1, specificity 0
    assert measured["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_decisions_are_counted_by_what_became_of_them():
    labels = np.array([0, 0, 1, 1, 2])
    before = np.eye(3)[[0, 0, 0, 0, 2]]
    after = np.eye(3)[[0, 1, 1, 2, 2]]
    counts, changed = compare_decisions(before, after, labels, "multiclass")
    assert counts == {"same": 2, "lost": 1, "gained": 1, "otherwise": 1}
    assert changed.tolist() == [False, True, True, True, False]


def test_multilabel_decisions_need_more_than_one_half():
    assert decide(np.array([[0.5, 0.51]]), "multilabel").tolist() == [[0, 1]]
