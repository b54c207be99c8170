"""Trained networks whose accuracy is the same and whose reasons are not."""

import copy

import pytest

import watermark
from watermark import NODULE, compared, phantoms, trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def burnt():
    return phantoms()[1]


@pytest.fixture(scope="module")
def by_lesion():
    return trained(phantoms()[0], 0)


def checks(found):
    return {each["name"]: each for each in found.verdict["checks"]}


def test_a_network_that_reads_the_watermark_is_caught(by_lesion, burnt):
    found = compared(by_lesion, trained(burnt, 0), burnt)
    accuracy = found.statistics["balanced_accuracy"]
    assert accuracy["original"]["value"] > 0.95
    assert accuracy["model"]["value"] > 0.95
    judged = checks(found)
    for kept in ("balanced_accuracy", "worst_class", "auc", "decisions"):
        assert judged[kept]["outcome"] == "pass", kept
    reasons = judged["class_reasons"]
    assert (reasons["outcome"], reasons["of"].split(" (")[0]) == ("fail", "nodule, gradcam")
    assert reasons["value"] > 0.9
    mass = found.localisation["classes"][NODULE]["mass"]
    assert mass["change"]["high"] < -0.05
    assert judged["localisation"]["outcome"] != "pass"
    assert judged["localisation"]["of"] == "nodule"


def test_a_copy_of_it_passes_every_check(by_lesion, burnt):
    found = compared(by_lesion, copy.deepcopy(by_lesion), burnt)
    assert {each["outcome"] for each in checks(found).values()} == {"pass"}


def test_the_mark_is_in_every_nodule_and_nowhere_else(burnt):
    corner = burnt.images[watermark.MARK].flatten(1)
    grey = (corner == watermark.GREY / 127.5 - 1).all(dim=1)
    assert grey.tolist() == (burnt.labels == NODULE).tolist()
