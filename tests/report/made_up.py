"""Evidence as a run would give it, made up and seeded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from debride.evidence import evaluate
from debride.evidence.evidence import Cost, Evidence, Latency, Performance, Sample

CLASSES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")


def blob(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Draw a few soft discs on a bright ground."""
    yy, xx = np.mgrid[:size, :size] / size
    field = np.zeros((size, size))
    for _ in range(cells):
        x, y, r = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85), rng.uniform(0.05, 0.16)
        field += np.exp(-((((xx - x) ** 2 + (yy - y) ** 2) / r**2) ** 2))
    return field


def samples(size: int = 64, count: int = 12, colour: bool = True) -> tuple[Sample, ...]:
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        field = blob(rng, size, 4)
        noise = rng.normal(0, 0.05, (size, size))
        shade = np.clip(0.85 - 0.5 * field + noise, 0, 1)
        image = np.rint(shade * 255).astype(np.uint8)
        if colour:
            tint = np.array([1.0, 0.82, 0.95])
            image = np.rint(shade[..., None] * tint * 255).astype(np.uint8)
        ground = field * (0.6 + rng.normal(0, 0.4, (size, size))) - 0.25 * blob(rng, size, 3)
        before = ground.astype(np.float32)
        after = (ground + rng.normal(0, 0.15 + 0.03 * k, (size, size))).astype(np.float32)
        true = k % len(CLASSES)
        changed = k < 3
        made.append(
            Sample(
                index=17 * k + 3,
                true=(true,),
                before_classes=(true,),
                before_score=0.97 - 0.02 * k,
                after_classes=((true + 1) % 4,) if changed else (true,),
                after_score=0.58 if changed else 0.93,
                target=true,
                spearman=0.93 - 0.02 * k,
                top10_overlap=0.8 - 0.03 * k,
                image=image,
                before=before,
                after=after,
            )
        )
    return tuple(made)


def performance(recall: list[float], accuracy: float, auc: float | None) -> Performance:
    return Performance(
        accuracy=accuracy,
        balanced_accuracy=float(np.mean(recall)),
        roc_auc=auc,
        roc_auc_missing=None if auc is not None else "no image of 'monocyte' in the test split",
        recall=list(recall),
        support=[320, 340, 280, 340],
    )


def make_evidence(**changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "split": "test",
        "images": 1280,
        "task": "multiclass",
        "classes": CLASSES,
        "performance": {
            "original": performance([0.95, 0.97, 0.90, 0.95], 0.9445, 0.988),
            "model": performance([0.945, 0.965, 0.862, 0.952], 0.9336, 0.984),
        },
        "cost": {
            "original": Cost(params=11_178_051, macs=1_820_000_000, bytes=44_800_000),
            "model": Cost(params=2_310_400, macs=910_000_000, bytes=9_300_000),
        },
        "speed": {
            "device": "CPU",
            "threads": 2,
            "torch": "2.8.0",
            "batches": [
                {
                    "batch": size,
                    "runs": 60,
                    "original": Latency(median=9.81 * size, q25=9.5 * size, q75=10.4 * size),
                    "model": Latency(median=5.22 * size, q25=5.1 * size, q75=5.6 * size),
                    "speedup": 1.88,
                    "speedup_q25": 1.79,
                    "speedup_q75": 1.94,
                }
                for size in (1, 16)
            ],
        },
        "explanations": {
            "images": 32,
            "undefined": 0,
            "method": "lrp",
            "rules": "epsilon",
            "spearman": {"mean": 0.871, "median": 0.884, "q10": 0.742},
            "top10_overlap": {"mean": 0.71, "median": 0.73, "q10": 0.55},
        },
        "decisions": {"same": 1243, "lost": 22, "gained": 9, "otherwise": 6},
        "samples": samples(),
    }
    return Evidence(**{**fields, **changes})


def make_run() -> dict[str, Any]:
    steps = [(1.0, 0.9425, 0.9425)] + [
        (1 - 0.0625 * k, 0.94 - 0.022 * k - 0.003 * k * k, 0.943 - 0.0015 * k) for k in range(1, 9)
    ]
    return {
        "schema_version": 1,
        "command": "prune",
        "command_line": "debride prune --model /home/eve/clinic/base "
        "--data '/srv/ward 7/patients' --macs 0.5 --out runs/half",
        "settings": {"seed": 0, "macs": 0.5, "data": "/srv/ward 7/patients", "speed": True},
        "seed": 0,
        "versions": {"debride": "0.1.0", "python": "3.11.9", "torch": "2.8.0"},
        "machine": {"system": "Linux-6.1", "processor": "x86_64", "cores": 2, "threads": 2},
        "started": "2025-05-04T10:11:12+00:00",
        "data": {
            "name": "/srv/ward 7/patients",
            "sha256": "3b5d" * 16,
            "images": {"train": 5120, "val": 960, "test": 1280},
            "skipped": ["smith_john_1950.png"],
        },
        "seconds": {"scoring": 41.2, "total": 182.5},
        "history": [
            {
                "step": k,
                "macs_kept": macs,
                "params_kept": macs**2,
                "units_kept": macs,
                "before_recovery": before,
                "after_recovery": after,
            }
            for k, (macs, before, after) in enumerate(steps)
        ],
    }


def make_plan() -> SimpleNamespace:
    rng = np.random.default_rng(1)
    groups = []
    for layer, units in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            kept = int(units * rng.uniform(0.2, 0.95))
            groups.append(
                SimpleNamespace(
                    name=f"layer{layer}.{block}.conv1", units=units, keep=tuple(range(kept))
                )
            )
    return SimpleNamespace(groups=tuple(groups))


def measure_whole(seed: int = 1) -> Evidence:
    """Measure two untrained networks beside each other, with lesions and subgroups."""
    torch.manual_seed(0)
    images = torch.rand(80, 1, 16, 16)
    masks = torch.zeros(80, 16, 16)
    masks[:, 4:10, 5:12] = 1
    networks = []
    for each in (0, seed):
        torch.manual_seed(each)
        networks.append(
            nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 49, 4)
            )
        )
    batch = {"image": images, "label": torch.arange(80) % 4, "mask": masks}
    return evaluate(
        networks[1], [batch], original=networks[0], classes=CLASSES, speed=False, explain=16,
        robustness=8, columns={"sex": ["f", "m"] * 30 + ["f"] * 10 + ["m"] * 10},
    )  # fmt: skip
