import re

import torch
from torch import nn

from debride.evidence import Evidence, evaluate
from debride.report import render
from debride.report.reasons import boxes, rows_of
from debride.report.robustness import multiples


def measured(*, original: bool) -> Evidence:
    torch.manual_seed(0)
    networks = [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
        for _ in range(2)
    ]
    images = torch.rand(12, 1, 8, 8)
    return evaluate(
        networks[0], [(images, torch.arange(12) % 2)], speed=False,
        original=networks[1] if original else None,
    )  # fmt: skip


def test_sections_show_the_figures_that_were_measured():
    evidence = measured(original=True)
    html = render({"command": "evaluate"}, evidence)
    assert "Did the reasons stay?" in html
    assert "What happens to images in clinics" in html
    assert evidence.reasons is not None
    assert evidence.robustness is not None
    found = evidence.reasons["lrp"]
    (title, cells), *_ = rows_of(found)
    assert title == "Rank correlation"
    median = f"{found['likeness']['quantiles']['spearman']['q50']:.2f}".replace("-", "−")
    beyond = f"{found['yardsticks'][0]['beyond']['spearman']:.0%}"
    assert (cells[0], cells[3]) == (median, beyond)
    assert f'<td class="n">{beyond}</td>' in html
    assert len(multiples(evidence.robustness)) == 7
    # two networks, accuracy and drift, seven corruptions
    section = html[html.index('id="robustness"') :]
    assert section[: section.index("</section>")].count("<polyline") == 2 * 2 * 7


def test_a_box_lies_where_its_quantiles_are():
    evidence = measured(original=True)
    assert evidence.reasons is not None
    found = evidence.reasons["lrp"]
    drawing = boxes(found, 720, "top10_iou")
    median = found["likeness"]["quantiles"]["top10_iou"]["q50"]
    least = min(
        0.0,
        found["likeness"]["quantiles"]["top10_iou"]["q05"],
        *(y["likeness"]["quantiles"]["top10_iou"]["q05"] for y in found["yardsticks"]),
    )
    x = 116 + (median - least) / (1 - least) * (720 - 14 - 116)
    drawn = re.search(r'class="median after" x1="([\d.]+)"', drawing)
    assert drawn is not None
    assert abs(float(drawn.group(1)) - x) < 0.06


def test_one_network_alone_is_shown_with_its_yardsticks():
    html = render({"command": "evaluate"}, measured(original=False))
    assert "How steady are the reasons?" in html
    assert "beyond noise" not in html
