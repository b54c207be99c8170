import re
import xml.etree.ElementTree as ET

import pytest

from debride.report.charts import LEFT, RIGHT, trajectory


@pytest.mark.parametrize("width", [340, 720])
def test_the_trajectory_lies_where_its_numbers_say(run, width):
    svg = ET.fromstring(str(trajectory(run["history"], width)))
    after = [c for c in svg.iter("circle") if c.get("class") == "after"]
    before = [c for c in svg.iter("circle") if c.get("class") == "before"]
    assert (len(after), len(before)) == (9, 8)
    x = [float(c.get("cx")) for c in after]
    assert x[0] == pytest.approx(LEFT)  # all MACs kept
    assert x[-1] == pytest.approx(width - RIGHT)  # half of them
    assert x == sorted(x)
    heights = [float(c.get("cy")) for c in after]
    assert heights == sorted(heights)  # the made-up accuracy only falls, and y points down
    steps = run["history"]
    scale = (heights[-1] - heights[0]) / (steps[0]["after_recovery"] - steps[-1]["after_recovery"])
    fall = float(before[-1].get("cy")) - heights[-1]
    assert fall == pytest.approx(
        scale * (steps[-1]["after_recovery"] - steps[-1]["before_recovery"]), abs=1.0 * fall * 0.1
    )


def test_everything_stays_inside_the_drawing(run):
    svg = ET.fromstring(str(trajectory(run["history"], 340)))
    for element in svg.iter():
        for name in ("x", "cx", "x1", "x2"):
            assert 0 <= float(element.get(name, 0)) <= 340


def test_the_metric_of_labels_that_hold_together_is_named(run):
    drawn = str(trajectory(run["history"], 340, "macro ROC AUC"))
    assert ">validation macro ROC AUC, %<" in drawn
    assert 'aria-label="Validation macro ROC AUC over 8 steps' in drawn
    assert "balanced" not in drawn


def test_the_drawing_is_told_in_words(run):
    label = re.search('aria-label="([^"]*)"', str(trajectory(run["history"], 340)))
    assert label is not None
    assert "over 8 steps: 94.2\u202f% with all MACs, 93.1\u202f% with 50.0\u202f%" in label[1]


def test_a_flat_trajectory_and_an_accuracy_of_one_are_drawn():
    step = {"macs_kept": 1.0, "before_recovery": 1.0, "after_recovery": 1.0}
    svg = ET.fromstring(str(trajectory([step, {**step, "macs_kept": 0.98}], 340)))
    assert len([c for c in svg.iter("circle") if c.get("class") == "after"]) == 2
