"""What repair takes: ResNet-50 at half of its units, 256 images of 224 pixels.

    DEBRIDE_DATA=../shared/data python benchmarks/repair_cost.py

It writes benchmarks/results/repair_cost.json; docs/recovering.md quotes it.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from debride.data.images import open_images
from debride.data.loading import loader
from debride.data.preprocessing import Preprocessing
from debride.files import write_atomic
from debride.models import ModelSpec, build
from debride.planning.costs import measure
from debride.planning.groups import find_groups
from debride.planning.plan import Plan, fingerprint
from debride.provenance import versions
from debride.recovery import begin
from debride.surgery.removal import apply

RESULTS = Path(__file__).parent / "results" / "repair_cost.json"
IMAGES, SIZE, BATCH = 256, 224, 16
REPAIRS = ("least_squares", "reconstruction")


def measured(name: str) -> dict[str, Any]:
    """Begin one repair and make it, in this process, which must be fresh for its peak."""
    data = Path(os.environ.get("DEBRIDE_DATA", "../shared/data")) / "chest_xray_pneumonia"
    source = open_images(str(data))
    prepared = Preprocessing(spatial=(SIZE, SIZE), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    batches = loader(source, "train", prepared, batch_size=BATCH, indices=range(IMAGES))
    images = [(batch["image"], batch["label"]) for batch in batches]  # decoding is not counted
    spec = ModelSpec(source="torchvision:resnet50", outputs=2, channels=3, spatial=(SIZE, SIZE))
    model, example = build(spec).eval(), images[0][0][:1]
    groups = find_groups(model, example).groups
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    marks = [time.perf_counter()]
    repair = begin(name, model, groups, images)
    marks.append(time.perf_counter())
    kept = tuple(group.planned(range(0, group.units, 2)) for group in groups)
    cost = measure(model, example)
    small = apply(model, Plan(kept, fingerprint(model), cost, cost))
    marks.append(time.perf_counter())
    repair(small, kept)
    marks.append(time.perf_counter())
    seconds = [after - start for start, after in itertools.pairwise(marks)]
    return {
        "network": spec.source,
        "repair": name,
        "images": IMAGES,
        "size": SIZE,
        "begin_seconds": seconds[0],
        "repair_seconds": seconds[2],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "peak_before_gib": before,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def main() -> None:
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        found = list(pool.map(measured, REPAIRS))
    write_atomic(RESULTS, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
