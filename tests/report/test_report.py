import hashlib
import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from debride.evidence import Evidence
from debride.report import card, render

from .made_up import make_evidence, samples

VOID = {"meta", "link", "img", "br", "wbr"}


class Structure(HTMLParser):
    """Checks that every element is closed in order, and gathers what matters."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_one_well_formed_page_that_loads_nothing(run, evidence, plan):
    html = render(run, evidence, plan)
    page = Structure(html)
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), attributes
    anchors = {attributes.get("id") for _, attributes in page.elements}
    assert {link["href"][1:] for link in page.all("a")} <= anchors
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in html
    assert "default-src 'none'" in html


def test_headings_and_pictures_can_be_read_aloud(run, evidence, plan):
    page = Structure(render(run, evidence, plan))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert len(page.all("img")) == 36
    assert all(image["alt"] for image in page.all("img"))
    assert all(drawing["aria-label"] for drawing in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("caption")) == len(page.all("table"))


def test_sections_come_in_the_order_of_what_matters(run, evidence, plan):
    html = render(run, evidence, plan)
    found = re.findall(r'<h2 id="(\w+)"', html)
    assert found == ["trajectory", "plan", "heatmaps", "classes", "speed", "origin"]
    assert re.findall(r'<li><a href="#(\w+)">', html) == found
    text = re.sub(r"[\s\u202f]+", " ", re.sub("<[^>]*>", " ", html))
    assert "Half the arithmetic for 1.1 points of balanced accuracy" in text
    assert "monocyte 280 90.0 % 86.2 % −3.8" in text
    assert "The two networks decide 1 243 of 1 280 images alike." in text
    assert "37 of 64" in text
    assert "Rank correlation 0.87 0.88 0.74" in text
    assert "was right, now wrong" in text
    assert "1.88 (1.79–1.94)" in text


def test_full_evidence_is_told_verdict_first(run, whole, plan):
    html = render(run, whole, plan)
    Structure(html)
    found = re.findall(r'<h2 id="(\w+)"', html)
    assert found == [
        "verdict", "trajectory", "plan", "heatmaps", "changed", "classes", "subgroups",
        "calibration", "reasons", "faithfulness", "localisation", "robustness", "origin",
    ]  # fmt: skip
    first = html[html.index("<header>") : html.index("</header>")]
    for check in whole.verdict["checks"]:
        assert check["title"][1:] in first
    assert first.count('class="outcome ') == 1 + len(whole.verdict["checks"])
    recall = whole.statistics["classes"][0]["recall"]["change"]
    assert f"{abs(recall['value']) * 100:.1f}" in html[html.index('id="classes"') :]
    assert "The white line is the border of the lesion" in html
    masses = [each for each in whole.localisation["classes"] if each is not None]
    assert len(masses) > 0
    assert html.count("Relevance mass, ") == len(masses)
    assert "Beyond noise 0.2 σ" in html
    assert len(html.encode()) < 6e6


def test_files_without_what_came_later_are_still_shown(run, plan):
    document = {**make_evidence().to_dict(), "schema_version": 1}
    for name in ("statistics", "calibration", "subgroups", "changed", "localisation", "verdict"):
        del document[name]
    for name in ("reasons", "robustness"):
        del document[name]
    for sample in document["samples"]:
        sample.pop("mask", None)
    html = render(run, Evidence.from_dict(document), plan)
    Structure(html)
    assert "Half the arithmetic for 1.1" in html
    assert '<p class="result">' not in html


def test_names_are_hidden_by_default(run, evidence, plan):
    names = [f"smith_{k}.png" for k in range(1280)]
    quiet = render(run, evidence, plan, names=names)
    text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", quiet)
    for word in ("smith", "/eve", "ward 7", "clinic"):
        assert word not in text
    loud = render(run, evidence, plan, show_names=True, names=names)
    assert "smith_3.png" in loud
    assert "/srv/ward 7/patients" in loud
    by_index = render(run, evidence, plan, show_names=True, names={3: "smith_3.png"})
    assert "smith_3.png" in by_index
    assert "Image 20" in by_index


def test_the_largest_pictures_stay_under_six_megabytes(run, plan):
    rng = np.random.default_rng(0)
    noisy = [
        replace(
            sample,
            image=rng.integers(0, 256, (512, 512, 3), dtype=np.uint8),
            before=rng.normal(size=(512, 512)).astype(np.float32),
            after=rng.normal(size=(512, 512)).astype(np.float32),
        )
        for sample in samples()
    ]
    assert len(render(run, make_evidence(samples=tuple(noisy)), plan).encode()) < 6e6


@pytest.mark.parametrize("history", [None, [], "step 0"])
def test_whatever_is_missing_is_left_out(history, run):
    whole = make_evidence()
    alone = make_evidence(
        performance={"original": None, "model": whole.performance["model"]},
        cost={"original": None, "model": whole.cost["model"]},
        speed=None,
        explanations=None,
        decisions=None,
        samples=(),
    )
    if history == "step 0":
        history = run["history"][:1]
    html = render({"history": history}, alone)
    Structure(html)
    assert re.findall(r'<h2 id="(\w+)"', html) == ["classes", "origin"]
    assert "Pruned" not in html


def test_a_network_alone_still_shows_what_it_looks_at(run):
    whole = make_evidence()
    seen = [
        replace(
            s,
            before_classes=None,
            before_score=None,
            spearman=None,
            top10_overlap=None,
            before=None,
        )
        for s in whole.samples
    ]
    alone = make_evidence(
        performance={"original": None, "model": whole.performance["model"]},
        cost={"original": None, "model": whole.cost["model"]},
        speed={
            **whole.speed,
            "batches": [
                {
                    **batch,
                    "original": None,
                    "speedup": None,
                    "speedup_q25": None,
                    "speedup_q75": None,
                }
                for batch in whole.speed["batches"]
            ],
        },
        explanations=None,
        decisions=None,
        samples=tuple(seen),
    )
    page = Structure(html := render({}, alone))
    assert len(page.all("img")) == 24
    assert "What it looks at" in html
    assert "Latency" in html


def test_class_names_cannot_write_html(run, plan):
    evil = ("<script>alert(1)</script>", 'a" onload="x', "b", "c")
    page = Structure(render(run, make_evidence(classes=evil), plan))
    assert len(page.all("script")) == 1
    assert not any("onload" in attributes for _, attributes in page.elements)


def test_a_missing_roc_auc_is_explained(run, plan):
    evidence = make_evidence()
    evidence.performance["model"]["roc_auc"] = None
    evidence.performance["model"]["roc_auc_missing"] = "no image of 'x' in the test split"
    assert "No ROC AUC: no image of &#39;x&#39; in the test split." in render(run, evidence, plan)


def test_of_many_classes_those_that_changed_most_are_shown(run):
    count = 100
    recall = [0.9] * count
    after = [0.9 - 0.001 * k for k in range(count)]
    measured = {"accuracy": 0.9, "balanced_accuracy": 0.9, "roc_auc": None, "roc_auc_missing": "x"}
    evidence = make_evidence(
        classes=tuple(f"class{k}" for k in range(count)),
        performance={
            "original": {**measured, "recall": recall, "support": [10] * count},
            "model": {**measured, "recall": after, "support": [10] * count},
        },
        samples=(),
    )
    html = render(run, evidence)
    assert "The 40 of 100 classes that changed most" in html
    assert ">class99<" in html
    assert ">class60<" in html
    assert ">class59<" not in html


def test_a_speed_that_is_within_the_noise_is_said_to_be_so(run, evidence):
    words = "cannot be told from the noise"
    assert words not in render(run, evidence)
    evidence.speed["batches"][0]["speedup_q25"] = 0.97
    assert words in render(run, evidence)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "went from 88.5% to 91.0%, in epoch 2, whose weights it has"),
        ({"best_epoch": 0, "after": 0.885}, "No epoch was better on the validation split: the"),
        ({"kept": False}, "The result would have broken the floor of the search"),
    ],
)
def test_fine_tuning_is_told_as_it_was(run, evidence, plan, changes, words):
    epoch = {"loss": 0.05, "validation_loss": 0.012, "metric": 0.91, "rate": 0.0, "seconds": 2.0}
    tuned = {
        "settings": {"epochs": 6}, "history": [{"epoch": k, **epoch} for k in (1, 2)],
        "best_epoch": 2, "before": 0.885, "after": 0.91, "epochs": 6, "steps": 8, "kept": True,
    }  # fmt: skip
    html = render({**run, "finetuning": {**tuned, **changes}}, evidence, plan)
    Structure(html)
    told = " ".join(re.sub("<[^>]+>", " ", html).replace("\u202f", "").split())
    assert "How it was fine-tuned" in told
    assert "for 2 epochs of at most 6" in told
    assert words in told
    assert "How it was fine-tuned" not in render(run, evidence, plan)
    markdown = card({**run, "finetuning": {**tuned, **changes}}, evidence, plan)
    assert "## How it was fine-tuned\n\nThe cut network learnt" in markdown
    assert words in markdown.replace(" %", "%")
    assert "fine-tuned" not in card(run, evidence, plan)


def test_the_largest_gap_of_a_subgroup_has_a_sign_that_can_be_read(run, whole, plan):
    page = render(run, whole, plan)
    said = re.search(r"The largest gap, f minus m, is now (.*?) points; in the original", page)
    assert said is not None
    assert said[1].startswith("+")
    assert "only each with itself before and after" in page
