"""How much faster ResNet-50 at 224 px is with half of its multiply-accumulates, on this CPU.

python benchmarks/latency.py                  # docs/latency.md; a quarter of an hour when idle
python benchmarks/latency.py --seconds 3 --plans uniform --screen   # a look; writes no file
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import debride
from debride.artifact.onnx import OnnxNetwork, export_onnx
from debride.evidence.speed import measure_speed
from debride.files import write_atomic
from debride.models import ModelSpec, build
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.plan import Plan, fingerprint
from debride.provenance import versions
from debride.surgery.removal import apply

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latency.json"
TABLE = HERE.parent / "docs" / "latency.md"
SPEC = ModelSpec(source="torchvision:resnet50", outputs=2, channels=3, spatial=(224, 224))
KEPT = 0.5
NEEDED = 1.6
"""Times as fast, in torch and in onnxruntime, at batch 1 and 16."""


def ranked(model: nn.Module, image: Tensor, ranking: str) -> Plan:
    """Plan by the size of the weights, within layers or over the whole network."""
    scores = debride.score(model, [(image, torch.zeros(1).long())], criterion="magnitude")
    return debride.plan(model, scores, image, macs=KEPT, ranking=ranking)


def in_eights(model: nn.Module, image: Tensor) -> Plan:
    """Keep the same share of every group, as multiples of eight channels."""
    groups, before = find_groups(model, image).groups, measure(model, image)
    for percent in range(90, 10, -1):
        counts = [max(8, round(group.units * percent / 800) * 8) for group in groups]
        kept = tuple(g.planned(range(min(c, g.units))) for g, c in zip(groups, counts, strict=True))
        plan = Plan(kept, fingerprint(model), before, before)
        after = measure(apply(model, plan), image)
        if after.macs <= KEPT * before.macs:
            return Plan(kept, fingerprint(model), before, after)
    raise AssertionError("no share of the channels halves this network")


PLANS: dict[str, tuple[str, Callable[[nn.Module, Tensor], Plan]]] = {
    "uniform": ("each layer alike, by magnitude", lambda m, x: ranked(m, x, "layer")),
    "global": ("over all layers, by magnitude", lambda m, x: ranked(m, x, "global")),
    "eights": ("each layer alike, multiples of 8", in_eights),
}


class ChannelsLast(nn.Module):
    """A network in channels-last order, and its images with it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return output


def as_onnx(network: nn.Module, image: Tensor) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, image, Path(folder) / "network.onnx")
        return OnnxNetwork(Path(folder) / "network.onnx")


BACKENDS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "torch": lambda network, _: network,
    "torch, channels last": lambda network, _: ChannelsLast(network),
    "onnxruntime": as_onnx,
}


def run(plans: list[str], seconds: float) -> list[dict[str, Any]]:
    rows = []
    image = torch.randn(1, 3, *SPEC.spatial, generator=torch.Generator().manual_seed(0))
    for name in plans:
        plan = PLANS[name][1](build(SPEC).eval(), image)
        for backend, prepare in BACKENDS.items():
            original = prepare(build(SPEC).eval(), image)
            smaller = prepare(apply(build(SPEC), plan).eval(), image)
            speed = measure_speed(smaller, image, original=original, seconds=seconds)
            for entry in speed["batches"]:
                rows.append({"plan": name, "macs": plan.macs_kept, "backend": backend, **entry})
                print(row_of(rows[-1]), flush=True)
    return rows


def row_of(row: dict[str, Any]) -> str:
    holds = "yes" if row["speedup"] >= NEEDED else "no"
    return (
        f"| {PLANS[row['plan']][0]} | {row['macs']:.1%} | {row['backend']} | {row['batch']} "
        f"| {row['original']['median']:.1f} | {row['model']['median']:.1f} "
        f"| {row['speedup']:.2f} ({row['speedup_q25']:.2f} to {row['speedup_q75']:.2f}) | {holds} |"
    )


def table(content: dict[str, Any]) -> str:
    """Make the Markdown page."""
    machine = content["machine"]
    lines = [
        "# Latency of half a ResNet-50",
        "",
        "Made by `python benchmarks/latency.py`; do not edit. ResNet-50 at 224 px, random weights,",
        "float32; the original and the smaller network take turns run by run. Milliseconds are",
        "medians; in brackets the quartiles of the ratio of neighbouring runs. Channels-last",
        f"includes the conversion of the images. {machine['processor']}, {machine['threads']} "
        f"thread(s), load {machine['load']:.1f} at the start,",
        f"torch {content['versions']['torch']}.",
        "",
        "| what is kept | MACs | run by | batch | original | smaller | times as fast "
        f"| at least {NEEDED} |",
        "|---|---|---|---|---|---|---|---|",
        *map(row_of, content["rows"]),
    ]
    return "\n".join([*lines, ""])


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--seconds", type=float, default=20, help="for each batch size")
    parser.add_argument("--screen", action="store_true", help="write no file")
    options = parser.parse_args()
    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }
    rows = run(options.plans, options.seconds)
    if options.screen:
        return
    content = {"machine": machine, "versions": versions(), "rows": rows}
    write_atomic(RESULTS, json.dumps(content, indent=1) + "\n")
    TABLE.write_text(table(content))


if __name__ == "__main__":
    main()
