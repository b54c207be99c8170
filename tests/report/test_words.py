from dataclasses import replace

import pytest

from debride import screens
from debride.report import findings, words

from .made_up import make_evidence


def test_the_verdict_says_what_was_won_what_was_lost_and_why_it_can_be_trusted(evidence):
    text = " ".join(words.verdict(evidence)).replace("\u202f", " ").replace("\u00a0", " ")
    assert text == (
        "Arithmetic for one image: 1.82 → 0.91 GMACs (50.0 %); 11.2 → 2.31 M parameters. "
        "Balanced accuracy on the test split (1 280 images): 94.2 % → 93.1 % (−1.1 points). "
        "Explanations agree: mean rank correlation 0.87 over 32 images."
    )
    assert (
        words.headline(evidence).replace("\u00a0", " ")
        == "Half the arithmetic for 1.1 points of balanced accuracy"
    )


def test_a_network_alone_is_reported_without_comparison():
    original = make_evidence()
    alone = make_evidence(
        performance={"original": None, "model": original.performance["model"]},
        cost={"original": None, "model": original.cost["model"]},
        explanations=None,
        decisions=None,
    )
    assert words.headline(alone) == "93.1\u202f% balanced accuracy on the test split"
    assert "no original" in words.verdict(alone)[1]
    assert words.loss_sentence(alone) == ""
    assert [tile[2] for tile in words.tiles(alone)] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0.9425, "Half the arithmetic, the same balanced accuracy"),
        (0.9486, "Half the arithmetic, and 0.6 points more balanced accuracy"),
        (0.9325, "Half the arithmetic for 1.0 points of balanced accuracy"),
    ],
)
def test_headlines_tell_gain_from_loss(after, expected):
    evidence = make_evidence()
    evidence.performance["original"]["balanced_accuracy"] = 0.9425
    evidence.performance["model"]["balanced_accuracy"] = after
    assert words.headline(evidence).replace("\u00a0", " ") == expected


def test_multilabel_speaks_of_roc_auc():
    assert words.headline_metric(make_evidence(task="multilabel")) == ("mean ROC AUC", 0.988, 0.984)


def test_the_class_that_lost_most_is_named_in_images(evidence):
    text = words.loss_sentence(evidence).replace("\u202f", " ").replace("\u00a0", " ")
    assert text == (
        "Most was lost for monocyte: 90.0 % → 86.2 % of its 280 images are recognised "
        "(−3.8 points, 11 images fewer)."
    )
    evidence.performance["model"]["recall"] = evidence.performance["original"]["recall"]
    assert words.loss_sentence(evidence).startswith("No class is found less often")


def judged(value: float, of: str, outcome: str = "warn") -> dict[str, object]:
    limits = {"low": None, "high": None, "warn": 0.5, "fail": 0.9}
    found = {"name": "drift", "title": "heatmaps moved", "unit": "number", "of": of}
    return {**found, "outcome": outcome, "value": value, **limits}


def test_a_figure_just_above_its_limit_is_not_written_as_the_limit(evidence, capsys):
    verdict = {"outcome": "warn", "checks": [judged(0.5004, "LRP")], "unmeasured": []}
    row = findings.checks(replace(evidence, verdict=verdict))[0]
    assert (row.title, row.value, row.limits) == ("Heatmaps moved: LRP", "0.5004", "0.50, 0.90")
    screens.show_verdict(verdict)
    assert "heatmaps moved: LRP" in (shown := capsys.readouterr().out)
    assert "0.5004" in shown


def test_where_nothing_was_lost_no_class_is_named(evidence, capsys):
    verdict = {"outcome": "pass", "checks": [judged(0.0, "cyst", "pass")], "unmeasured": []}
    assert findings.checks(replace(evidence, verdict=verdict))[0].title == "Heatmaps moved"
    screens.show_verdict(verdict)
    assert "cyst" not in capsys.readouterr().out


def test_a_gain_that_chance_explains_is_not_announced_as_one(whole):
    was, now = whole.performance["original"], whole.performance["model"]
    gained = {**now, "balanced_accuracy": was["balanced_accuracy"] + 0.05}
    better = {**whole.performance, "model": gained}
    for low, said in ((-0.054, "+5.0 points (−5.4 to +15.6)"), (0.01, "and 5.0 points more")):
        change = {"value": 0.05, "low": low, "high": 0.156}
        estimates = {**whole.statistics["balanced_accuracy"], "change": change}
        statistics = {**whole.statistics, "balanced_accuracy": estimates}
        found = words.headline(replace(whole, performance=better, statistics=statistics))
        assert said in found.replace("\u00a0", " ")
