"""Figures against scikit-learn, intervals against closed forms and a plain loop."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from debride.evidence.intervals import compared, means, strata_of
from debride.evidence.statistics import exact_p, statistics
from debride.resampling import area, resampled, sensitivity, steps

from .test_task import softmax


def case(count: int = 300, seed: int = 0, sure: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, count, p=[0.55, 0.2, 0.15, 0.1])
    scores = rng.normal(size=(count, 4)).round(1)  # with ties
    return softmax(scores + sure * np.eye(4)[labels]), labels


def test_every_figure_is_that_of_scikit_learn():
    p, labels = case()
    found = statistics([p], labels, "multiclass", specificity=0.8, resamples=10)
    chosen = p.argmax(axis=1)
    assert found["accuracy"]["model"]["value"] == pytest.approx(accuracy_score(labels, chosen))
    assert found["balanced_accuracy"]["model"]["value"] == pytest.approx(
        balanced_accuracy_score(labels, chosen)
    )
    assert found["auc"]["model"]["value"] == pytest.approx(
        roc_auc_score(labels, p, multi_class="ovr")
    )
    recalls = recall_score(labels, chosen, average=None)
    precisions = precision_score(labels, chosen, average=None)
    for k, figures in enumerate(found["classes"]):
        assert figures["support"] == (labels == k).sum()
        assert figures["recall"]["model"]["value"] == pytest.approx(recalls[k])
        assert figures["precision"]["model"]["value"] == pytest.approx(precisions[k])
        assert figures["auc"]["model"]["value"] == pytest.approx(
            roc_auc_score(labels == k, p[:, k])
        )
        false, true, _ = roc_curve(labels == k, p[:, k], drop_intermediate=False)
        assert figures["sensitivity"]["model"]["value"] == pytest.approx(
            true[1 - false >= 0.8 - 1e-12].max()
        )
    assert found["accuracy"]["original"] is None
    assert found["accuracy"]["change"] is None
    assert found["mcnemar"] is None


def test_multilabel_figures_are_those_of_each_label():
    rng = np.random.default_rng(2)
    labels = (rng.random((200, 3)) < [0.5, 0.2, 0.1]).astype(np.int64)
    p = 1 / (1 + np.exp(-rng.normal(size=(200, 3)) - 2 * labels + 1))
    found = statistics([p], labels, "multilabel", resamples=10)
    for k, figures in enumerate(found["classes"]):
        assert figures["recall"]["model"]["value"] == pytest.approx(
            recall_score(labels[:, k], p[:, k] > 0.5)
        )
        assert figures["auc"]["model"]["value"] == pytest.approx(
            roc_auc_score(labels[:, k], p[:, k])
        )
    assert found["balanced_accuracy"]["model"]["value"] == pytest.approx(
        np.mean([balanced_accuracy_score(labels[:, k], p[:, k] > 0.5) for k in range(3)])
    )
    assert found["accuracy"]["model"]["value"] == pytest.approx((labels == (p > 0.5)).mean())


def test_weighted_curves_are_those_of_drawn_images():
    p, labels = case(120)
    for weights in resampled(labels, seed=3, resamples=20):
        curve = steps(weights, p[:, 1], labels == 1)
        areas, called = area(curve), sensitivity(curve, 0.9)
        for row, drawn in enumerate(weights.astype(int)):
            images = np.repeat(np.arange(120), drawn)
            truth, scores = labels[images] == 1, p[images, 1]
            assert areas[row] == pytest.approx(roc_auc_score(truth, scores))
            false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
            assert called[row] == pytest.approx(true[1 - false >= 0.9 - 1e-12].max())


def test_the_interval_of_a_recall_is_the_binomial_one():
    # the bootstrap of k right of n, drawn within the class, is Binomial(n, k / n) / n
    labels = np.repeat([0, 1], [50, 200])
    right = np.concatenate([np.arange(50) < 40, np.arange(200) < 150])
    p = np.eye(2)[np.where(right, labels, 1 - labels)]
    found = statistics([p], labels, "multiclass", resamples=20_000)
    for k, (count, share) in enumerate([(50, 0.8), (200, 0.75)]):
        recall = found["classes"][k]["recall"]["model"]
        expected = binom.ppf([0.025, 0.975], count, share) / count
        assert [recall["low"], recall["high"]] == pytest.approx(expected, abs=1.01 / count)
    whole = found["balanced_accuracy"]["model"]
    deviation = 0.5 * np.sqrt(0.8 * 0.2 / 50 + 0.75 * 0.25 / 200)
    assert whole["high"] - whole["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(size=(400, 1))
    (found,) = compared([means(values)], np.zeros(400, dtype=np.int64), resamples=20_000)
    spread = 1.96 * values.std() / 20
    assert found["model"]["low"] == pytest.approx(values.mean() - spread, abs=0.03 * spread)
    assert found["model"]["high"] == pytest.approx(values.mean() + spread, abs=0.03 * spread)


def test_the_change_is_paired():
    # 190 images decided alike, 6 lost, 4 gained: only those ten make the change uncertain
    before, after = np.zeros(200), np.zeros(200)
    before[:100] = after[:100] = 1
    before[100:106] = after[106:110] = 1
    measures = [means(each[:, None]) for each in (before, after)]
    (found,) = compared(measures, np.zeros(200, dtype=np.int64), resamples=20_000)
    assert found["change"]["value"] == pytest.approx(-0.01)
    width = found["change"]["high"] - found["change"]["low"]
    assert width == pytest.approx(2 * 1.96 * np.sqrt((10 / 200 - 0.01**2) / 200), rel=0.05)
    unpaired = found["model"]["high"] - found["model"]["low"]
    assert width < 0.5 * unpaired


def test_an_unpruned_copy_changes_nothing_for_sure():
    p, labels = case()
    found = statistics([p, p], labels, "multiclass", resamples=200)
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    for key in ("accuracy", "balanced_accuracy", "auc"):
        assert found[key]["change"] == nothing
        assert found[key]["original"] == found[key]["model"]
    assert found["mcnemar"] == {"lost": 0, "gained": 0, "p": 1.0}


def test_the_seed_decides_the_resamples():
    p, labels = case()
    first, again, other = (
        statistics([p], labels, "multiclass", resamples=100, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["auc"]["model"]["low"] != other["auc"]["model"]["low"]


def test_no_class_goes_empty():
    labels = np.array([0] * 100 + [1])
    for weights in resampled(strata_of(labels, "multiclass"), seed=0, resamples=100):
        assert (weights[:, 100] == 1).all()
    several = np.zeros((100, 2), dtype=np.int64)
    several[:60, 0] = 1
    several[7, 1] = 1  # carried by an image that has the frequent label too
    for weights in resampled(strata_of(several, "multilabel"), seed=0, resamples=100):
        assert (weights[:, 7] == 1).all()


def test_what_is_not_defined_is_left_out():
    labels = np.array([0, 0, 1, 1, 0, 1])
    p = np.tile([0.8, 0.1, 0.1], (6, 1))  # class 2 has no images, and class 1 is never called
    found = statistics([p, p], labels, "multiclass", resamples=50)
    assert found["classes"][2]["recall"] == {"original": None, "model": None, "change": None}
    assert found["classes"][1]["precision"]["model"] is None
    assert found["auc"]["model"] is None
    assert found["balanced_accuracy"]["model"]["value"] == 0.5


@pytest.mark.parametrize(("lost", "gained"), [(0, 1), (3, 3), (9, 1), (40, 22), (300, 260)])
def test_mcnemar_is_the_exact_binomial_test(lost, gained):
    expected = binomtest(min(lost, gained), lost + gained, 0.5).pvalue
    assert exact_p(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_counts_what_one_network_alone_has_right():
    labels = np.array([0, 0, 0, 1, 1])
    before, after = (np.eye(2)[chosen] for chosen in ([0, 0, 0, 1, 0], [1, 1, 0, 1, 1]))
    found = statistics([before, after], labels, "multiclass", resamples=10)["mcnemar"]
    assert found == {"lost": 2, "gained": 1, "p": 1.0}
