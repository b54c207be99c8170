"""Torch-Pruning as it is shipped, on the networks of the compression benchmark.

    pip install torch-pruning
    DEBRIDE_DATA=../shared/data python benchmarks/torch_pruning_cells.py --work runs/compression

For every network that benchmarks/compression.py has trained: `tp.pruner.BasePruner` with its group
importances and defaults, one step, no repair, the head left alone. The pruning ratio is halved
until the MACs meet each budget, which the package leaves to its user. It writes the form of cell
that `debride compare` writes, so that benchmarks/compression.py --collect takes them up.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debride.comparing.cells import is_trained, result_path
from debride.comparing.grid import Cell, Study, cells_of, read_grid
from debride.comparing.measuring import Measuring
from debride.data.batches import unpack
from debride.files import write_atomic
from debride.opening import Job, open_job
from debride.planning.costs import measure
from debride.provenance import versions
from debride.validation import Validation

HERE = Path(__file__).parent
HALVINGS = 9
IMPORTANCES = ("GroupMagnitudeImportance", "GroupTaylorImportance")


def cut(
    model: nn.Module, ratio: float, importance: str, images: Tensor, labels: Tensor
) -> nn.Module:
    """Remove a share of all channels with the package's defaults."""
    import torch_pruning as tp

    small = copy.deepcopy(model).requires_grad_(True)
    head = [module for module in small.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        small,
        images[:1],
        importance=getattr(tp.importance, importance)(),
        pruning_ratio=ratio,
        ignored_layers=[head],
    )
    if "Taylor" in importance:
        nn.functional.cross_entropy(small(images), labels).backward()
    pruner.step()
    return small.eval()


def at_budget(make: Callable[[float], nn.Module], example: Tensor, kept: float, whole: int) -> Any:
    """Return the network nearest to a share of the MACs."""
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        small = make(ratio)
        share = measure(small, example).macs / whole
        if best is None or abs(share - kept) < abs(best[1] - kept):
            best = small, share
        low, high = (ratio, high) if share > kept else (low, ratio)
    return best


def run(cell: Cell, importance: str) -> None:
    """Cut one trained network to every budget, and write the cell."""
    name = f"torch_pruning_{importance.removeprefix('Group').removesuffix('Importance').lower()}"
    path = result_path(cell).with_name(f"{name}.json")
    if path.is_file():
        return
    job: Job = open_job(cell.prune)
    model, begun = job.network.model.eval(), time.perf_counter()
    chosen = job.choose(cell.prune.reference)
    every = job.batches("train", indices=chosen.indices, batch_size=len(chosen.indices))
    images, labels = (each.to(job.network.device) for each in unpack(next(iter(every))))
    judge = Validation(model, job.batches("val"), job.task, job.network.device)
    whole = measure(model, images[:1])
    rules = job.network.rules(cell.prune.heatmap_rules)
    measuring = Measuring(job, rules, cell.study.seed)
    points = []
    for step, budget in enumerate((1.0, *cell.budgets)):
        small = model
        if step:
            small, _ = at_budget(
                lambda ratio: cut(model, ratio, importance, images, labels),
                images[:1],
                budget,
                whole.macs,
            )
        cost, (metric, _) = measure(small, images[:1]), judge.measured(small)
        point = {
            "budget": budget,
            "step": step,
            "macs_kept": cost.macs / whole.macs,
            "params_kept": cost.params / whole.params,
            "units_kept": None,
            "before_recovery": metric,
            "after_recovery": metric,
            "normalise": None,
            **measuring(small),
            "finetuned": None,
        }
        points.append(point)
        print(cell.study.name, name, budget, point["macs_kept"], metric, flush=True)
    document = {
        "schema_version": 1,
        "network": cell.study.network,
        "data": cell.study.data,
        "seed": cell.study.seed,
        "criterion": name,
        "settings": {},
        "images": {"test": len(job.source.splits[job.final_split])},
        "points": points,
        "seconds": {"total": time.perf_counter() - begun},
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_atomic(path, json.dumps(document, indent=1) + "\n")


def main() -> None:
    warnings.filterwarnings("ignore", module="torch_pruning")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/compression"))
    options = parser.parse_args()
    out = options.work / "compression"
    studies: dict[Study, Cell] = {}
    for cell in cells_of(read_grid(HERE / "compression.yaml"), out):
        studies.setdefault(cell.study, cell)
    for study, cell in studies.items():
        if is_trained(study):
            for importance in IMPORTANCES:
                run(cell, importance)


if __name__ == "__main__":
    main()
