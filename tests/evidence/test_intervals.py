"""Intervals of shares of 0 and 1 against SciPy's; of others as the resamples give them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from debride.evidence.changed import changed
from debride.evidence.intervals import compared, means
from debride.evidence.statistics import statistics


@pytest.mark.parametrize("right", [0, 6])
def test_a_share_of_none_or_all_has_the_exact_interval(right):
    values = np.array([1.0] * right + [0.0] * (6 - right))[:, None]
    (found,) = compared([means(values)], np.zeros(6, dtype=np.int64), counts=[np.array([6.0])])
    exact = binomtest(right, 6).proportion_ci(0.95, "exact")
    assert (found["model"]["low"], found["model"]["high"]) == pytest.approx(tuple(exact), abs=1e-12)


def test_a_mean_that_happens_to_be_one_is_no_share():
    (found,) = compared([means(np.ones((6, 1)))], np.zeros(6, dtype=np.int64))
    assert found["model"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_a_class_that_is_always_right_is_as_sure_as_its_images_are_many():
    labels = np.array([0] * 6 + [1] * 44)
    p = np.where(labels == 0, 0.9, 0.2)
    found = statistics([np.stack([p, 1 - p], axis=1)] * 2, labels, "multiclass")
    first, second = found["classes"]
    assert first["recall"]["model"]["low"] == pytest.approx(0.025 ** (1 / 6))
    assert second["recall"]["model"]["low"] == pytest.approx(0.025 ** (1 / 44))
    assert first["precision"]["original"]["low"] == pytest.approx(0.025 ** (1 / 6))
    assert found["accuracy"]["model"]["low"] == pytest.approx(0.025 ** (1 / 50))
    # both networks decide alike: nothing changed, whatever is drawn
    assert first["recall"]["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_no_changed_decision_among_few_images_rules_out_little():
    labels = np.array([0, 1] * 10)
    p = np.stack([1.0 - labels, labels], axis=1)
    found = changed(p, p, labels, "multiclass", indices=np.arange(20))
    assert found["share"]["value"] == 0.0
    assert found["share"]["high"] == pytest.approx(1 - 0.025 ** (1 / 20))
