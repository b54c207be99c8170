"""How long ``debride.load`` takes for a halved network: imports not counted.

python benchmarks/loading.py    # writes benchmarks/results/loading.json
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import debride
from debride.artifact.bundle import write_bundle
from debride.files import write_atomic
from debride.models import ModelSpec, build
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.plan import Plan, fingerprint
from debride.provenance import versions
from debride.surgery.removal import apply

RESULTS = Path(__file__).parent / "results" / "loading.json"
SOURCES = {
    "torchvision:resnet50": 224,
    "torchvision:densenet121": 224,
    "timm:vit_small_patch16_224": 224,
}
RUNS = 9


def timed(source: str, size: int, folder: Path) -> dict[str, Any]:
    """Save a network with half of its units, and load it several times."""
    spec = ModelSpec(source=source, outputs=2, channels=3, spatial=(size, size))
    model, image = build(spec).eval(), torch.zeros(1, 3, size, size)
    groups = find_groups(model, image).groups
    kept = tuple(group.planned(range(0, group.units, 2)) for group in groups)
    before = measure(model, image)
    plan = Plan(kept, fingerprint(model), before, before)
    write_bundle(
        folder, apply(model, plan), spec=spec, preprocessing=None, classes=("a", "b"),
        task="multiclass", plan=plan, run={},
    )  # fmt: skip
    debride.load(folder)  # imports what the network's library brings
    wall, processor = [], []
    for _ in range(RUNS):
        begin, used = time.perf_counter(), time.process_time()
        debride.load(folder)
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - used)
    return {
        "network": source,
        "bytes": (folder / "model.safetensors").stat().st_size,
        "seconds": statistics.median(wall),
        "slowest_seconds": max(wall),
        "processor_seconds": statistics.median(processor),
    }


def main() -> None:
    rows = []
    for source, size in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(timed(source, size, Path(folder) / "run"))
        print(rows[-1], flush=True)
    machine = {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    content = {"versions": versions(), "machine": machine, "rows": rows}
    write_atomic(RESULTS, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
