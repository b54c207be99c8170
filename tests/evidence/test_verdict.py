import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from debride import screens
from debride.errors import DebrideError
from debride.evidence import Evidence, evaluate
from debride.evidence.verdict import Limits, judge, original_guesses, read_limits
from debride.report import words

from .tiny_classifier import Tiny


@pytest.fixture
def copy_of_itself(images, batches, explainer) -> Evidence:
    masks = torch.zeros(60, 1, 8, 8)
    masks[..., :4] = 1
    data = [
        {"image": some, "label": labels, "mask": masks[: len(some)]} for some, labels in batches
    ]
    columns = {"sex": ["f", "m"] * 30, "age": list(range(30)) * 2, "patient_id": list(range(60))}
    return evaluate(
        Tiny(),
        data,
        original=Tiny(),
        explain=60,
        explainer=explainer,
        speed=False,
        columns=columns,
        classes="abc",
    )


def outcomes(evidence: Evidence, limits: Limits | None = None) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in judge(evidence, limits)["checks"]}


def test_an_unpruned_copy_passes_every_check(copy_of_itself):
    found = copy_of_itself.verdict
    assert found["outcome"] == "pass"
    assert found["unmeasured"] == []
    assert {check["outcome"] for check in found["checks"]} == {"pass"}
    assert all(abs(check["value"]) < 1e-6 for check in found["checks"])
    assert copy_of_itself.subgroups["left_out"] == {"patient_id": "tells patients or images apart"}
    assert copy_of_itself.localisation["images"] == 60


def test_a_damaged_network_fails():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    images = torch.randn(300, 1, 8, 8, generator=generator)

    class Mean(torch.nn.Module):
        """Tells the class by the mean of the image."""

        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.tensor(shift))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            level = x.mean(dim=(1, 2, 3))[:, None] + self.shift
            return -30 * (level - torch.tensor([[-1.0, 0.0, 1.0]])).square()

    images = images * 0.5 + (labels - 1.0).reshape(-1, 1, 1, 1)
    found = evaluate(
        Mean(0.9), [(images, labels)], original=Mean(0.0), explain=0, speed=False
    ).verdict
    assert found["outcome"] == "fail"
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["balanced_accuracy"]["outcome"] == "fail"
    assert by_name["worst_class"]["value"] == pytest.approx(1, abs=0.05)
    assert "explanations" in found["unmeasured"]


def with_recalls(evidence: Evidence, change: float, low: float, high: float) -> Evidence:
    """Change the recall of the last class alone."""
    last = evidence.statistics["classes"][-1]
    figure = {**last["recall"], "change": {"value": change, "low": low, "high": high}}
    classes = [*evidence.statistics["classes"][:-1], {**last, "recall": figure}]
    return replace(evidence, statistics={**evidence.statistics, "classes": classes})


@pytest.mark.parametrize(
    ("change", "low", "high", "outcome"),
    [
        (-0.50, -1.0, 0.0, "warn"),  # a rare class: perhaps by chance, but never passed over
        (-0.50, -0.8, -0.2, "fail"),
        (-0.15, -0.18, -0.12, "warn"),
        (-0.05, -0.30, 0.10, "warn"),  # too few images to rule a failure out
        (-0.05, -0.10, 0.0, "pass"),
        (0.30, 0.10, 0.50, "pass"),
    ],
)
def test_figure_and_interval_both_count(copy_of_itself, change, low, high, outcome):
    changed = with_recalls(copy_of_itself, change, low, high)
    found = judge(changed)
    assert outcomes(changed)["worst_class"] == outcome
    assert found["outcome"] == outcome
    if outcome != "pass":
        (check,) = [each for each in found["checks"] if each["name"] == "worst_class"]
        assert check["of"] == "c"
        assert (check["value"], check["low"], check["high"]) == (-change, -high, -low)


def test_limits_are_the_users(copy_of_itself):
    changed = with_recalls(copy_of_itself, -0.05, -0.06, -0.04)
    assert outcomes(changed)["worst_class"] == "pass"
    assert outcomes(changed, Limits(worst_class=(0.01, 0.1)))["worst_class"] == "warn"
    assert outcomes(changed, Limits(worst_class=(0.01, 0.04)))["worst_class"] == "fail"


def test_there_is_no_verdict_without_an_original(batches):
    assert evaluate(Tiny(), batches, explain=0, speed=False).verdict is None


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"speed": "1,2"}, "no check 'speed' to limit: there are balanced_accuracy, worst_class"),
        ({"auc": "0.1"}, "auc=0.1 is not WARN,FAIL"),
        ({"auc": "0.2,0.1"}, "the one to warn first"),
    ],
)
def test_wrong_limits_are_refused(pairs, words):
    with pytest.raises(DebrideError, match=words):
        read_limits(pairs)


def test_evidence_of_version_1_is_still_read(batches):
    new = evaluate(Tiny(), batches, original=Tiny(), explain=0, speed=False).to_dict()
    later = ("statistics", "calibration", "subgroups", "changed", "localisation", "verdict")
    old = {key: value for key, value in new.items() if key not in later} | {"schema_version": 1}
    read = Evidence.from_dict(old)
    assert read.verdict is None
    assert read.performance == new["performance"]


def test_new_sections_survive_json_and_safetensors(tmp_path, batches):
    one, other = Tiny(), Tiny()
    with torch.no_grad():
        one.fc.bias[0], other.fc.bias[1] = 100, 100
    evidence = evaluate(other, batches, original=one, explain=3, speed=False)
    assert evidence.changed["images"] == 60
    assert len(evidence.thumbnails) == len(evidence.changed["shown"]) > 0
    evidence.save_samples(tmp_path / "heatmaps.safetensors")
    again = Evidence.from_dict(evidence.to_dict()).load_samples(tmp_path / "heatmaps.safetensors")
    assert again.to_dict() == evidence.to_dict()
    for first, second in zip(evidence.thumbnails, again.thumbnails, strict=True):
        assert np.array_equal(first, second)


def test_masks_of_another_shape_are_refused(images, labels):
    data = [{"image": images, "label": labels, "mask": torch.zeros(60, 1, 4, 4)}]
    with pytest.raises(DebrideError, match="give one mask an image"):
        evaluate(Tiny(), data, speed=False)


def test_short_columns_are_refused(batches):
    with pytest.raises(DebrideError, match="the column 'sex' has 3 values"):
        evaluate(Tiny(), batches, explain=0, speed=False, columns={"sex": ["f", "m", "f"]})


def test_reasons_that_moved_further_than_under_noise_fail(copy_of_itself):
    reasons = copy.deepcopy(copy_of_itself.reasons)
    (method,) = reasons
    for share, outcome in ((0.05, "pass"), (0.3, "warn"), (0.9, "fail")):
        reasons[method]["yardsticks"][-1]["beyond"]["spearman"] = share
        moved = replace(copy_of_itself, reasons=reasons)
        assert outcomes(moved)["yardstick"] == outcome
    # weak noise alone says nothing
    reasons[method]["yardsticks"][-1]["beyond"]["spearman"] = 0.0
    reasons[method]["yardsticks"][0]["beyond"]["spearman"] = 1.0
    assert outcomes(replace(copy_of_itself, reasons=reasons))["yardstick"] == "pass"


def test_one_class_whose_reasons_moved_is_named(copy_of_itself):
    reasons = copy.deepcopy(copy_of_itself.reasons)
    (method,) = reasons
    for share, outcome in ((0.4, "pass"), (0.6, "warn"), (0.95, "fail")):
        reasons[method]["yardsticks"][-1]["classes"]["spearman"] = [None, share, 0.0]
        found = judge(replace(copy_of_itself, reasons=reasons))
        check = next(each for each in found["checks"] if each["name"] == "class_reasons")
        assert (check["outcome"], check["value"], check["of"]) == (outcome, share, f"b, {method}")
    for yardstick in reasons[method]["yardsticks"]:
        del yardstick["classes"]  # as in evidence of earlier versions
    assert "class_reasons" in judge(replace(copy_of_itself, reasons=reasons))["unmeasured"]


def test_relevance_that_left_small_lesions_is_a_share(copy_of_itself):
    found = copy.deepcopy(copy_of_itself.localisation)

    def told(before: float, lost: float) -> tuple[str, float, str]:
        change = {"value": -lost, "low": -lost - 0.01, "high": -lost + 0.01}
        figure = {**found["mass"], "original": {"value": before}, "change": change}
        found["classes"][1] = {"images": 20, "mass": figure}
        verdict = judge(replace(copy_of_itself, localisation=found))
        check = next(each for each in verdict["checks"] if each["name"] == "localisation")
        return check["outcome"], check["value"], check["of"]

    assert told(0.10, 0.06) == ("fail", pytest.approx(0.6), "b")
    assert told(0.60, 0.06) == ("pass", pytest.approx(0.1), "b")
    assert told(0.20, 0.06) == ("warn", pytest.approx(0.3), "b")
    assert told(0.0, 0.0)[0] == "pass"


def test_accuracy_lost_under_corruption_alone_is_seen(copy_of_itself):
    robust = copy.deepcopy(copy_of_itself.robustness)
    curve = robust["corruptions"]["noise"]["model"]["balanced_accuracy"]
    original = robust["corruptions"]["noise"]["original"]["balanced_accuracy"]
    curve[:] = [value - 0.2 for value in original]
    found = judge(replace(copy_of_itself, robustness=robust))
    check = next(each for each in found["checks"] if each["name"] == "robustness")
    assert (check["outcome"], check["of"]) == ("fail", "noise")
    assert check["value"] == pytest.approx(0.2)
    # what is lost on the clean images too is counted elsewhere
    robust["clean_model"] = robust["clean_original"] - 0.2
    found = judge(replace(copy_of_itself, robustness=robust))
    check = next(each for each in found["checks"] if each["name"] == "robustness")
    assert (check["outcome"], check["value"]) == ("pass", pytest.approx(0.0, abs=1e-9))


def test_all_classes_that_collapse_are_named(copy_of_itself):
    statistics = copy.deepcopy(copy_of_itself.statistics)
    for figures, lost in zip(statistics["classes"], (0.3, 0.5, 0.0), strict=True):
        change = figures["recall"]["change"]
        figures["recall"]["change"] = {
            **change, "value": -lost, "low": -lost - 0.01, "high": -lost + 0.01
        }  # fmt: skip
    found = judge(replace(copy_of_itself, statistics=statistics))
    check = next(each for each in found["checks"] if each["name"] == "worst_class")
    assert (check["outcome"], check["of"]) == ("fail", "b (also a)")


def test_an_original_that_guesses_is_remarked(copy_of_itself, capsys):
    chance = 1 / len(copy_of_itself.classes)
    found = copy.deepcopy(copy_of_itself)
    for low, guesses in ((chance - 0.01, True), (chance, True), (chance + 0.01, False)):
        found.statistics["balanced_accuracy"]["original"]["low"] = low
        assert original_guesses(found) is guesses
        assert any("no better than chance" in said for said in words.verdict(found)) is guesses
        screens.show_evidence(found)
        assert ("no better than chance" in capsys.readouterr().err) is guesses
