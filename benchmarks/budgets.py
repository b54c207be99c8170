"""Meet every kind of budget on three networks with random weights, and say how near it came.

    python benchmarks/budgets.py          # what is missing; resumes
    python benchmarks/budgets.py --table  # only docs/budgets.md again

What is reached is not what the plan predicts: the cut network is built, its operations and tensors
are counted, its file is written and its latency is timed beside the original, in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from monai.networks import nets
from safetensors.torch import save_file
from torch import Tensor, nn

import debride
from debride.errors import DebrideError
from debride.files import write_atomic
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.timing import take_turns

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "budgets.json"
TABLE = HERE.parent / "docs" / "budgets.md"

BUDGETS = {
    "macs": (0.25, 0.5, 0.75),
    "params": (0.25, 0.5, 0.75),
    "bytes": (0.25, 0.5, 0.75),
    "ratio": (0.25, 0.5, 0.75),
    "latency": (0.6, 0.8),
}
ALLOWED = {"latency": 0.05}
HUNDREDTH = 0.01


@dataclass(frozen=True)
class Case:
    """A network, the shape of an image, and whether widths are rounded."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    round_to: int = 1


def _resnet50() -> nn.Module:
    return torchvision.models.resnet50(num_classes=2)


def _vit_s() -> nn.Module:
    return timm.create_model("vit_small_patch16_224", img_size=64, num_classes=2)


def _segresnet() -> nn.Module:
    return nets.SegResNet(spatial_dims=2, init_filters=16, in_channels=1, out_channels=2)


CASES = (
    Case("ResNet-50", _resnet50, (3, 64, 64)),
    Case("ResNet-50, round_to=8", _resnet50, (3, 64, 64), 8),
    Case("ViT-S/16", _vit_s, (3, 64, 64)),
    Case("SegResNet", _segresnet, (1, 64, 64)),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--table", action="store_true", help="only write docs/budgets.md")
    arguments.add_argument("--only", help="only networks whose name holds this")
    given = arguments.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for case in () if given.table else CASES:
        if given.only and given.only not in case.name:
            continue
        results = _run(case, results)
    write_atomic(TABLE, _table(results))


def _run(case: Case, results: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    model = case.make().eval()
    image = torch.randn(1, *case.shape, generator=torch.Generator().manual_seed(0))
    groups = find_groups(model, image).groups
    scores = debride.score(model, [image], criterion="random", groups=groups)
    for kind, shares in BUDGETS.items():
        for share in shares:
            key = f"{case.name} | {kind} {share}"
            if key in results:
                continue
            try:
                plan = debride.plan(
                    model,
                    scores,
                    image,
                    groups=groups,
                    round_to=case.round_to,
                    floor=0.01,
                    **{kind: share},
                )
            except DebrideError as error:
                results[key] = {"refused": str(error)}
            else:
                reached = _reached(kind, model, debride.apply(model, plan), plan, image)
                results[key] = {**reached, "torch": torch.__version__}
            print(key, results[key], flush=True)
            write_atomic(RESULTS, json.dumps(results, indent=1) + "\n")
    return results


def _reached(
    kind: str, model: nn.Module, smaller: nn.Module, plan: Any, image: Tensor
) -> dict[str, float]:
    if kind == "ratio":
        return {"reached": 1 - float(plan.units_kept)}
    if kind == "latency":
        times = take_turns([model, smaller], image, seconds=6, least=9, most=1000)
        low, high = np.quantile(times[1] / times[0], [0.25, 0.75])
        share = float(np.median(times[1]) / np.median(times[0]))
        return {"reached": share, "low": float(low), "high": float(high)}
    if kind == "bytes":
        return {"reached": _on_disk(smaller) / _on_disk(model)}
    before, after = measure(model, image).to_dict(), measure(smaller, image).to_dict()
    return {"reached": after[kind] / before[kind]}


def _on_disk(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)
        return path.stat().st_size


def _table(results: dict[str, Any]) -> str:
    lines = [
        "# Budgets",
        "",
        "Every kind of budget on three networks with random weights and random scores, one shot,",
        "images of 64 pixels: what was asked for and what the cut network then had.",
        "`python benchmarks/budgets.py` makes this page. MACs and parameters are counted, bytes",
        "are those of the file, latency is measured in turns with the original on the CPU, by",
        "another measurement than the one that the cut was fitted with; it is met within 0.05, or",
        "where the middle half of the ratios holds what was asked for.",
        "",
        "| network | budget | asked | reached | off by | within |",
        "|---|---|---|---|---|---|",
    ]
    for key, result in results.items():
        name, _, budget = key.partition(" | ")
        kind, _, share = budget.partition(" ")
        if "refused" in result:
            lines.append(f"| {name} | {kind} | {share} | – | – | refused: {result['refused']} |")
            continue
        off = abs(result["reached"] - float(share))
        allowed = ALLOWED.get(kind, HUNDREDTH)
        met = off <= allowed or result.get("low", 1) <= float(share) <= result.get("high", 0)
        within = "yes" if met else f"**no**, {allowed} allowed"
        lines.append(
            f"| {name} | {kind} | {share} | {result['reached']:.4f} | {off:.4f} | {within} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
