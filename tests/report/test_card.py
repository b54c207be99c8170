import re

from debride.report import card, pages
from debride.report.environment import escaped

from .made_up import make_evidence


def tables(text):
    """Give the cells of every table; all of its lines have as many."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            lines.append(re.split(r"(?<!\\)\|", line)[1:-1])
        elif lines:
            assert len({len(line) for line in lines}) == 1, lines
            found.append([[cell.strip() for cell in line] for line in lines])
            lines = []
    return found


def test_the_card_has_the_figures_of_the_report(run, evidence, plan):
    text = card(run, evidence, plan)
    assert text.startswith("# Half the arithmetic for 1.1")
    found = tables(text)
    cells = [[cell.replace("\u202f", " ") for cell in line] for table in found for line in table]
    assert ["MACs an image", "1 820 000 000", "910 000 000", "50.0 %"] in cells
    assert ["monocyte", "280", "90.0 %", "86.2 %", "−3.8"] in cells
    assert [line[0] for line in cells if line[0] == "layer1.0.conv1"] == ["layer1.0.conv1"]
    assert "smith" not in text
    assert "/srv" not in text


def test_the_card_of_full_evidence_is_whole(run, whole, plan):
    text = card(run, whole, plan)
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "Verdict", "What it costs", "How it was pruned", "What every layer keeps",
        "Decisions that changed", "Classes", "Subgroups by sex", "Calibration",
        "Likeness of the heatmaps: LRP", "Likeness of the heatmaps: Grad-CAM",
        "Heatmaps and lesions", "Changed images", "Where this comes from",
    ]  # fmt: skip
    found = tables(text)
    assert len(found[0]) == 2 + len(whole.verdict["checks"])
    brier = whole.calibration["brier"]["model"]["value"]
    assert "| Brier score | " in text
    assert f"{100 * brier:.1f}" in text[text.index("| Brier score") :].splitlines()[0]
    assert "\n\n\n\n" not in text


def test_names_cannot_break_the_card(run, plan):
    evil = ("a|b", "<img src=x>", "[x](y)", "*c*\n# d")
    text = card(run, make_evidence(classes=evil), plan)
    tables(text)
    assert "<img" not in text
    assert "\n# d" not in text
    assert escaped("[x](y)") == r"\[x\](y)"


def test_names_are_shown_on_request(run, whole):
    index = whole.changed["shown"][0]["index"]
    names = {index: "smith_7.png"}
    assert "smith" not in card(run, whole, names=names)
    assert r"smith\_7.png" in card(run, whole, show_names=True, names=names)


def test_both_pages_stand_in_a_run(run, evidence, plan):
    files = pages(run, evidence, plan)
    assert sorted(files) == ["card.md", "report.html"]
    assert files["card.md"] == card(run, evidence, plan)
