"""The programs in examples/ and the code in docs/extending.md run, and do what they say."""

import copy
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import debride

ROOT = Path(__file__).parents[1]


def test_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples/own_model.py"), run_name="__main__")
    said = capsys.readouterr().out
    kept = float(re.search(r"kept ([\d.]+)%", said)[1])  # type: ignore[index]
    before, after = map(float, re.findall(r"([\d.]+) before, ([\d.]+) after", said)[0])
    assert abs(kept - 50) < 1
    assert before > 0.95
    assert after > 0.9
    assert "the same outputs after loading: True" in said


def test_where_it_looks(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/where_it_looks.py"), run_name="__main__")
    said = dict(re.findall(r"^  (\w+) +(-?[\d.]+)", capsys.readouterr().out, re.MULTILINE))
    explained = float(said.pop("explained"))
    assert explained == pytest.approx(sum(map(float, said.values())), abs=0.002)


def test_extensions_of_the_docs_work_together() -> None:
    from debride.criteria import score
    from debride.data import registry
    from debride.data.images import open_images
    from debride.evidence import corruptions
    from debride.models.attention import registry as attention
    from debride.models.spec import ModelSpec, build
    from debride.planning.groups import find_groups
    from debride.recovery import begin
    from debride.recovery import registry as recoveries
    from debride.reference import choose
    from debride.reference import registry as strategies
    from debride.relevance.rules import RuleSet, make_rule
    from debride.surgery.removal import narrow

    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, {})
    try:
        source = open_images("stripes:20")
        assert source.classes == ("plain", "striped")
        spec = ModelSpec(source="plain:6", outputs=2, channels=1, spatial=source.spatial)
        model = build(spec)
        scores = score(model, [torch.rand(2, 1, 16, 16)], criterion="first_come")
        assert scores.values["0"].tolist() == [-0.0, -1, -2, -3, -4, -5]
        images = torch.rand(2, 1, 16, 16)
        one, two = (
            score(model, [images], criterion="gradient-size", power=power).values["0"]
            for power in (1, 2)
        )
        assert float(one.sum()) > 0
        assert not torch.allclose(one, two)
        batches = [(images, torch.tensor([0, 1]))]
        chosen = choose(
            model, batches, 1, task="multiclass", classes=source.classes, strategy="borderline"
        )
        assert chosen.indices == (0, 1)
        cut = [group.planned([0, 1, 2]) for group in find_groups(model, images).groups]
        small = copy.deepcopy(model)
        narrow(small, cut)
        weight = small[6].weight.clone()
        begin("scaled", model, cut, [images])(small, cut)
        assert torch.equal(small[6].weight, 2 * weight)
        images, labels = torch.rand(4, 1, 16, 16), torch.arange(4) % 2
        robust = debride.evaluate(model, [(images, labels)], explain=0, speed=False).robustness
        assert robust is not None
        assert robust["corruptions"]["haze"]["levels"][-1] == 0.5
        found = debride.attribute(model, torch.rand(1, 1, 16, 16), rules="my_composite")
        assert abs(found.delta) < 1e-4
        found = debride.attribute(model, torch.rand(1, 1, 16, 16), method="contrast", floor=0.1)
        assert float(found.input.min()) >= 0.1
        pooled = next(kind for kind in attention._KINDS if kind.__name__ == "Pooled")
        groups = find_groups(nn.Sequential(nn.Linear(5, 32), pooled()), torch.rand(1, 6, 5)).groups
        assert [(group.kind, group.units) for group in groups] == [("head", 4), ("head_dim", 8)]
        bold = RuleSet("bold", make_rule("bold", threshold=0.2), make_rule("bold"))
        found = debride.attribute(model, torch.rand(1, 1, 16, 16), rules=bold)
        assert abs(found.delta) < 1e-4
        assert found.shares["lost"] != 0
        step = nn.Sequential(nn.Conv2d(1, 2, 1), Step(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        found = debride.attribute(step, torch.rand(1, 1, 4, 4), 0)
        assert not found.unknown
    finally:
        registry._OPENERS.pop("stripes", None)
        strategies._STRATEGIES.pop("borderline", None)
        recoveries._RECOVERIES.pop("scaled", None)
        corruptions._CORRUPTIONS.pop("haze", None)


class Step(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.heaviside(x, torch.zeros(()))
