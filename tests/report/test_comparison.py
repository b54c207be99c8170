import re
from dataclasses import replace

import numpy as np
import pytest

from debride.errors import DebrideError
from debride.report import Run, compare_runs

from .made_up import make_evidence, samples
from .test_report import Structure


def text_of(html):
    return re.sub(r"[\s\u202f]+", " ", re.sub("<[^>]*>", " ", html))


def test_runs_stand_side_by_side(run, evidence):
    cost = {**evidence.cost, "model": {**evidence.cost["model"], "macs": 182_000_000}}
    small = make_evidence(cost=cost)
    html = compare_runs([Run("half", run, evidence), Run("<tenth>", run, small)])
    page = Structure(html)
    said = text_of(html)
    assert "1 half – 50.0 % 20.7 % 9.30 MB 93.1 % −1.1 −3.8 monocyte 2.9 % 0.87" in said
    assert "2 &lt;tenth&gt; – 10.0 %" in said
    # the image, the original's heatmap, and one of each run
    assert len(page.all("img")) == 9 * 4
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert "monocyte 90.0 % 86.2 % 86.2 %" in said


def test_a_run_that_lost_in_no_class_names_none(run, evidence):
    kept = {**evidence.performance, "model": evidence.performance["original"]}
    said = text_of(compare_runs([Run("same", run, replace(evidence, performance=kept))] * 2))
    assert "1 same – 50.0 % 20.7 % 9.30 MB 94.2 % ±0.0 ±0.0 2.9 %" in said


def test_verdicts_and_intervals_are_compared_where_there_are_some(run, whole, evidence):
    html = compare_runs([Run("a", run, whole), Run("b", run, replace(whole, verdict=None))])
    Structure(html)
    (check, *_) = whole.verdict["checks"]
    assert f"{check['title'][1:]}</th>" in html
    found = whole.statistics["balanced_accuracy"]["model"]
    low, high = (f"{100 * found[key]:.1f}" for key in ("low", "high"))
    assert f"({low}–{high})" in html.replace("\u2060", "")


def test_images_that_only_some_runs_have_are_shown_for_those(run, evidence):
    fewer = make_evidence(samples=samples()[:2])
    none = make_evidence(samples=())
    runs = [Run("a", run, evidence), Run("b", run, fewer), Run("c", run, none)]
    assert len(Structure(compare_runs(runs)).all("img")) == 2 * 4


@pytest.mark.parametrize(
    ("changes", "data", "words"),
    [
        ({"classes": ("a", "b", "c", "d")}, None, "compare runs of the same classes"),
        ({"split": "val"}, None, "compare runs of one split"),
        ({"images": 7}, None, "were measured on different images"),
        ({}, {"sha256": "0"}, "were measured on different images"),
    ],
)
def test_runs_of_other_images_are_refused(run, evidence, changes, data, words):
    other = Run("b", {**run, "data": data or run["data"]}, replace(evidence, **changes))
    with pytest.raises(DebrideError, match=words):
        compare_runs([Run("a", run, evidence), other])


def test_many_large_pictures_stay_under_six_megabytes(run):
    rng = np.random.default_rng(0)
    noisy = tuple(
        replace(
            sample,
            image=rng.integers(0, 256, (512, 512, 3), dtype=np.uint8),
            before=rng.normal(size=(512, 512)).astype(np.float32),
            after=rng.normal(size=(512, 512)).astype(np.float32),
        )
        for sample in samples()
    )
    runs = [Run(str(k), run, make_evidence(samples=noisy)) for k in range(6)]
    assert len(compare_runs(runs).encode()) < 6e6
