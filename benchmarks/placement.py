"""Where the cuts are, and which channels they take: one criterion's widths, another's ranking.

    DEBRIDE_DATA=../shared/data python benchmarks/placement.py BASES

BASES is a folder of networks that the compression benchmark trained on malaria cells, as its
`compression/bases`. Each pair of criteria is cut in one step from the whole network and
recalibrated. It writes benchmarks/results/placement.json; docs/choices.md quotes it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from debride.criteria import score
from debride.files import write_atomic
from debride.opening import Job, open_job
from debride.planning.groups import find_groups
from debride.planning.make import finish, plan
from debride.planning.plan import PlannedGroup
from debride.planning.ranking import importances
from debride.provenance import versions
from debride.recovery import begin
from debride.settings.pruning import PruneSettings
from debride.surgery.removal import apply
from debride.validation import Validation

RESULTS = Path(__file__).parent / "results" / "placement.json"
PLACED = ("lrp", "taylor", "magnitude")
RANKED = ("lrp", "taylor", "ig", "magnitude", "random")
SEEDS = 3
MACS = 0.5


def rows_of(name: str, job: Job) -> Iterator[dict[str, Any]]:
    """Cut and recalibrate one network for each sample, placing and ranking criterion."""
    model, device = job.network.model, job.network.device
    judge = Validation(model, job.batches("val"), job.task, device)
    before = judge.metric(judge.original)
    for seed in range(SEEDS):
        sample = replace(job, seed=seed)
        reference = sample.reference(sample.choose(20))
        example = next(iter(reference))["image"][:1]
        groups = find_groups(model, example).groups
        whole = [group.planned(range(group.units)) for group in groups]
        repair = begin("batchnorm", model, whole, job.recalibration(), device=device)
        scores = {
            each: score(model, reference, criterion=each, groups=groups, seed=seed)
            for each in RANKED
        }
        worth = {each: importances(whole, found.values, "share") for each, found in scores.items()}
        plans = {
            each: plan(model, scores[each], example, macs=MACS, groups=groups, floor=0.02)
            for each in PLACED
        }
        for placed, ranked in itertools.product(PLACED, RANKED):
            chosen = [
                group.planned(
                    sorted(worth[ranked][group.name].topk(len(cut.keep)).indices.tolist())
                )
                for group, cut in zip(groups, plans[placed].groups, strict=True)
            ]
            small = apply(model, finish(model, chosen, example, {}))
            repair(small, chosen)
            metric, divergence = judge.measured(small)
            yield {
                "network": name, "seed": seed, "placed_by": placed, "ranked_by": ranked,
                "lost": 100 * (before - metric), "divergence": divergence, "kept": kept(chosen),
            }  # fmt: skip


def kept(groups: list[PlannedGroup]) -> dict[str, float]:
    """Return the share of its channels that each stage of a network keeps."""
    stages: dict[str, list[PlannedGroup]] = {}
    for group in groups:
        stages.setdefault(group.name.split(".")[0], []).append(group)
    return {
        stage: round(sum(len(g.keep) for g in some) / sum(g.units for g in some), 3)
        for stage, some in stages.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bases", type=Path)
    data = Path(os.environ.get("DEBRIDE_DATA", "../shared/data")) / "malaria_cells"
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    done = {row["network"] for row in rows}
    for base in sorted(parser.parse_args().bases.glob("*-malaria-*")):
        if base.name in done:
            continue
        job = open_job(PruneSettings(model=str(base), data=str(data), out=Path("unused"), macs=0.5))
        for row in rows_of(base.name, job):
            print(*list(row.values())[:6], flush=True)
            rows.append(row)
        write_atomic(RESULTS, json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    table(rows)


def table(rows: list[dict[str, Any]]) -> None:
    """Print points lost on validation and divergence, means over samples of reference images."""
    for name, placed in sorted({(row["network"], row["placed_by"]) for row in rows}):
        print(f"\n{name}, placed by {placed}")
        for ranked in RANKED:
            some = [
                row for row in rows
                if (row["network"], row["placed_by"], row["ranked_by"]) == (name, placed, ranked)
            ]  # fmt: skip
            lost, far = (mean(row[key] for row in some) for key in ("lost", "divergence"))
            print(f"  ranked by {ranked:10} lost {lost:5.1f}, divergence {far:.3f}")


if __name__ == "__main__":
    main()
