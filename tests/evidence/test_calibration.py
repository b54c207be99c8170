import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from debride.evidence.calibration import calibration

from .test_statistics import case


def test_several_classes_as_torchmetrics_and_a_plain_loop_have_them():
    p, labels = case()
    found = calibration([p], labels, "multiclass", resamples=10)
    expected = MulticlassCalibrationError(4, n_bins=15, norm="l1")(
        torch.tensor(p), torch.tensor(labels)
    )
    assert found["ece"]["model"]["value"] == pytest.approx(expected.item(), abs=1e-6)
    brier = np.mean(
        [sum((p[i, k] - (labels[i] == k)) ** 2 for k in range(4)) for i in range(len(p))]
    )
    assert found["brier"]["model"]["value"] == pytest.approx(brier)
    (curve,) = found["curves"]
    assert curve["of"] is None
    assert sum(bin["images"] for bin in curve["model"]) == len(p)
    off = [bin["images"] * abs(bin["confidence"] - bin["frequency"]) for bin in curve["model"]]
    assert sum(off) / len(p) == pytest.approx(found["ece"]["model"]["value"])


def test_two_classes_are_measured_on_the_second():
    rng = np.random.default_rng(0)
    positive = rng.random(500)
    labels = (rng.random(500) < positive).astype(np.int64)
    p = np.stack([1 - positive, positive], axis=1)
    found = calibration([p], labels, "binary", resamples=10)
    # torchmetrics turns the probability round where the decision is the first class
    above = BinaryCalibrationError(n_bins=15, norm="l1")(
        torch.tensor(positive), torch.tensor(labels)
    )
    assert found["ece"]["model"]["value"] == pytest.approx(above.item(), abs=1e-6)
    assert found["brier"]["model"]["value"] == pytest.approx(brier_score_loss(labels, positive))
    assert found["curves"][0]["of"] == 1


def test_labels_have_a_curve_each():
    rng = np.random.default_rng(0)
    p = rng.random((300, 3))
    labels = (rng.random((300, 3)) < p).astype(np.int64)
    found = calibration([p], labels, "multilabel", resamples=10)
    each = [
        calibration(
            [np.stack([1 - p[:, k], p[:, k]], axis=1)], labels[:, k], "binary", resamples=10
        )
        for k in range(3)
    ]
    for key in ("ece", "brier"):
        mean = np.mean([one[key]["model"]["value"] for one in each])
        assert found[key]["model"]["value"] == pytest.approx(mean)
    assert [curve["of"] for curve in found["curves"]] == [0, 1, 2]


def test_a_network_too_sure_of_itself_is_off_by_its_excess():
    labels = np.arange(1000) % 2
    right = np.arange(1000) % 4 < 2  # in half of the images of either class
    chosen = np.where(right, labels, 1 - labels)
    modest, boastful = (
        np.where(np.eye(3)[chosen] == 1, sure, (1 - sure) / 2) for sure in (0.5, 0.9)
    )
    found = calibration([modest, boastful], labels, "multiclass")
    assert found["ece"]["original"]["value"] == pytest.approx(0)
    assert found["ece"]["model"]["value"] == pytest.approx(0.4)
    change = found["ece"]["change"]
    assert change["value"] == pytest.approx(0.4)
    assert 0.3 < change["low"] < 0.4 < change["high"] < 0.45


def test_a_copy_changes_nothing():
    p, labels = case()
    found = calibration([p, p], labels, "multiclass", resamples=100)
    assert found["ece"]["change"] == found["brier"]["change"] == {
        "value": 0.0, "low": 0.0, "high": 0.0
    }  # fmt: skip
    assert found["curves"][0]["original"] == found["curves"][0]["model"]


def test_what_calibration_costs_lies_within_its_interval():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1.0, 60)  # as often right as it says, in bins of few images
    labels = (rng.uniform(size=60) < sure).astype(np.int64)
    honest, boastful = (np.stack([1 - p, p], axis=1) for p in (sure, np.full(60, 0.999)))
    found = calibration([honest, boastful], labels, "binary")["ece"]
    for each in found.values():
        assert 0 <= each["low"] <= each["value"] + 1e-9
        assert each["value"] <= each["high"] + 1e-9
    centre = np.mean([found["original"]["low"], found["original"]["high"]])
    assert centre == pytest.approx(found["original"]["value"], abs=0.02)
