"""Trained networks whose accuracy is the same and whose reasons are not."""

import copy

import pytest

import watermark
from debride.evidence import evaluate
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
    again = trained(phantoms()[0], 1)
    by_mark = trained(burnt, 0)
    found = compared(by_lesion, by_mark, burnt, second=again, explain=60)
    accuracy = found.statistics["balanced_accuracy"]
    assert accuracy["original"]["value"] > 0.95
    assert accuracy["model"]["value"] > 0.95
    judged = checks(found)
    for kept in ("balanced_accuracy", "worst_class", "auc", "decisions"):
        assert judged[kept]["outcome"] == "pass", kept
    # trainings differ between processors and numbers of threads: figures with room
    assert judged["class_reasons"]["value"] > 2 * judged["yardstick"]["value"]
    assert judged["class_reasons"]["of"].startswith("nodule, ")
    assert judged["explanations"]["outcome"] != "pass"
    mass = found.localisation["classes"][NODULE]["mass"]
    assert mass["change"]["high"] < 0
    assert judged["localisation"]["outcome"] == "fail"
    assert judged["localisation"]["of"].split(" (")[0] == "nodule"
    assert judged["localisation"]["value"] > 0.6
    unmarked = evaluate(
        by_mark, phantoms()[0].batches("test"), explain=0, robustness=0, speed=False
    )
    assert unmarked.statistics["classes"][NODULE]["recall"]["model"]["value"] < 0.5


def test_a_copy_of_it_passes_every_check(by_lesion, burnt):
    found = compared(by_lesion, copy.deepcopy(by_lesion), burnt, explain=30)
    assert {each["outcome"] for each in checks(found).values()} == {"pass"}


def test_the_mark_is_in_every_nodule_and_nowhere_else(burnt):
    corner = burnt.images[watermark.MARK].flatten(1)
    grey = ((corner + 1) * 127.5 - watermark.GREY).abs().amax(dim=1) < 1e-3
    assert grey.tolist() == (burnt.labels == NODULE).tolist()
