"""Transformers as LXT explains them, which runs with packages of its own (`make test-oracles`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.oracles.vit import LABEL, images, vit

from debride.relevance import attribute

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("DEBRIDE_LXT", ROOT / ".venv" / "lxt"))


@pytest.mark.slow
@pytest.mark.skipif(
    not (HOME / "lxt").is_dir(), reason="LXT is installed apart, by `make test-oracles`"
)
@pytest.mark.parametrize(("name", "rules"), [("torchvision", "cplrp"), ("timm", "attnlrp")])
def test_input_relevance_of_vit_b_16_equals_lxts(name, rules, tmp_path):
    found = tmp_path / "relevance.pt"
    path = os.pathsep.join([str(HOME), str(ROOT), *sys.path])
    subprocess.run(
        [sys.executable, "-m", "tests.oracles.lxt_reference", name, str(found)],
        env=os.environ | {"PYTHONPATH": path}, cwd=ROOT, check=True, timeout=600,
    )  # fmt: skip
    theirs = torch.load(found, weights_only=True)
    ours = attribute(vit(name), images(), LABEL, rules=rules, strict=True).input
    assert theirs.abs().max() > 0
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
