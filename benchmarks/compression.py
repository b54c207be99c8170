"""Which criterion prunes best, by how much: the compression benchmark, and docs/benchmark.md.

    DEBRIDE_DATA=../shared/data python benchmarks/compression.py --work runs/compression
    python benchmarks/torch_pruning_cells.py --work runs/compression   # the peer as it is shipped
    python benchmarks/compression.py --table          # only the page again
    python benchmarks/compression.py --quick          # one small cell on drawn images, minutes

It runs `debride compare` on compression.yaml, ablations.yaml and targets.yaml. Each goes on
where it was stopped; --collect runs nothing and reads what is there. Cells written down in the
results stay until they are made anew: delete them there where the method has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from debride.comparing.cells import result_path
from debride.comparing.figures import figure
from debride.comparing.grid import cells_of, read_grid
from debride.comparing.summary import Line, Mean, lines_of, mean, named, rows_of
from debride.comparing.tables import correlation, page, places, share, signed
from debride.files import write_atomic

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "compression.json"
DOCS = HERE.parent / "docs"
GRIDS = {
    "compression": "The grid",
    "ablations": "One choice at a time, more seeds and data",
    "targets": "Which relevance, in few large steps",
}
KEPT = "network data seed criterion metric images points seconds threads versions".split()
QUICK = {
    "networks": {
        "resnet10t": {
            **{"model": "timm:resnet10t", "image_size": 32},
            **{"epochs": 8, "batch_size": 16, "lr": 0.003},
        }
    },
    "data": {"phantom": {"data": "phantom:400"}},
    "criteria": ["lrp"],
    "budgets": [0.7, 0.4],
}


def run(grid: Path, out: Path, *flags: str) -> int:
    words = [sys.executable, "-m", "debride.cli", "compare", "--grid", str(grid), "--out", str(out)]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    print("+ debride", *words[3:], *flags, flush=True)
    return subprocess.run([*words, *flags], env={**os.environ, "PYTHONPATH": path}).returncode


def collect(work: Path) -> dict[str, Any]:
    """Add the finished cells of all grids to those written down, and name what is missing."""
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found: dict[str, Any] = {}
    for name in GRIDS:
        done = {called(cell): cell for cell in before.get(name, {"cells": []})["cells"]}
        cells = cells_of(read_grid(HERE / f"{name}.yaml"), work / name)
        paths = [result_path(cell) for cell in cells]
        paths += sorted((work / name).glob("cells/*/torch_pruning_*.json"))  # the peer's own
        for path in filter(Path.is_file, paths):
            document = json.loads(path.read_text())
            done[called(document)] = {key: document[key] for key in KEPT if key in document}
        found[name] = {
            "cells": list(done.values()),
            "missing": [cell.name for cell in cells if cell.name not in done],
        }
    return found


def called(cell: dict[str, Any]) -> str:
    """Name a cell as `debride compare` does."""
    return "{network}-{data}-{seed}/{criterion}".format(**cell)


def written(results: dict[str, Any]) -> str:
    """Write the page, and the figures beside it."""
    text = [
        "# The compression benchmark",
        "",
        "Made by `python benchmarks/compression.py` from `benchmarks/results/compression.json`; do",
        "not edit. Networks are trained from scratch with `debride train`, then cut through all",
        "budgets in one loop for all criteria: scored anew at each budget, 20 reference images a",
        "class, each budget in one step, batch-norm recalibration unless a name says otherwise (in",
        "the last section reconstruction), no gradients but for what is called fine-tuned. `lrp`",
        "is that of `debride prune`, the odds of the class, squared; `lrp_abs` takes sizes for",
        "squares, `lrp_logit` also the logit of the class. Every choice is made on validation.",
        "",
    ]
    for name, title in GRIDS.items():
        grid = results.get(name, {"cells": [], "missing": []})
        rows = rows_of(grid["cells"])
        if not rows:
            continue
        lines = lines_of(rows)
        for network, data in places(lines):
            part = [row for row in rows if (row["network"], row["data"]) == (network, data)]
            picture = figure(part, f"{network}, {data}")
            write_atomic(DOCS / "figures" / name / f"{network}-{data}.svg", picture)
        legend = name == next(iter(GRIDS))
        text += page(lines, f"figures/{name}", title, level=2, legend=legend).splitlines()
        if len(places(lines)) > 1:
            text += ["", f"### {title}: mean of networks and data", "", *overall(lines)]
        hours = sum(cell["seconds"]["total"] for cell in grid["cells"]) / 3600
        done, all_ = len(grid["cells"]), len(grid["cells"]) + len(grid["missing"])
        text += ["", f"{done} of {all_} cells, {hours:.1f} hours of one core.", ""]
        if grid["missing"]:
            text += ["Not made yet:", "", *missing(grid["missing"]), ""]
    return "\n".join(text).rstrip() + "\n"


def missing(names: list[str]) -> list[str]:
    """List cells by what they have in common."""
    studies: dict[str, list[str]] = {}
    for name in names:
        study, _, criterion = name.partition("/")
        studies.setdefault(study, []).append(criterion)
    alike: dict[str, list[str]] = {}
    for study, criteria in studies.items():
        alike.setdefault(", ".join(criteria), []).append(study)
    return [f"- {', '.join(studies)}: {criteria}" for criteria, studies in alike.items()]


def overall(lines: list[Line]) -> list[str]:
    """Mean each criterion over the networks and data of the one that has most of them."""
    criteria = list(dict.fromkeys((line.criterion, line.stage) for line in lines))
    where = {c: set(places([x for x in lines if (x.criterion, x.stage) == c])) for c in criteria}
    most = max(where.values(), key=len)
    whole = [c for c in criteria if where[c] == most]
    rows = []
    for criterion, stage in whole:
        part = [x for x in lines if (x.criterion, x.stage) == (criterion, stage)]
        removed, loss, test, area, alike = (
            of_all(getattr(line, key) for line in part)
            for key in "macs_removed test_loss test_macs_removed mean_loss heatmaps".split()
        )
        rows.append(
            (
                (stage != "repaired", area.value if area else loss.value),
                f"| {named(criterion, stage)} | {share(removed)} | {signed(loss)} "
                f"| {share(test)} | {signed(area)} | {correlation(alike)} |",
            )
        )
    rows.sort()
    head = (
        "| criterion | MACs removed | its test loss | MACs removed at −1 on test | mean loss "
        "| heatmaps |"
    )
    listed = "; ".join(", ".join(place) for place in sorted(most))
    told = "± is the 95 % confidence interval over these networks and data, not over seeds."
    return [
        f"Of {listed}. {told if len(most) > 2 else ''}".rstrip(),
        "",
        head,
        "|---|---|---|---|---|---|",
        *(r for _, r in rows),
    ]


def of_all(found: Iterable[Mean | None]) -> Mean | None:
    """Mean what all lines have; None where one lacks it."""
    values = [each.value if each else None for each in found]
    return None if None in values else mean(values)


def quick() -> int:
    """Run one cell on drawn images, and check that it met its budgets."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        grid.write_text(yaml.safe_dump(QUICK, sort_keys=False))
        code = run(grid, Path(folder) / "out")
        if code == 0:
            print((Path(folder) / "out" / "comparison.md").read_text())
        return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/compression"))
    parser.add_argument("--collect", action="store_true", help="run nothing, read what is there")
    parser.add_argument("--table", action="store_true", help="only make the page again")
    parser.add_argument("--quick", action="store_true", help="one small cell, nothing is kept")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.quick:
        return quick()
    code = 0
    if not options.table:
        if not options.collect:
            for name in GRIDS:
                grid, out = HERE / f"{name}.yaml", options.work / name
                code |= run(grid, out, "--workers", str(options.workers))
        write_atomic(RESULTS, json.dumps(collect(options.work), indent=1) + "\n")
    write_atomic(DOCS / "benchmark.md", written(json.loads(RESULTS.read_text())))
    return code


if __name__ == "__main__":
    sys.exit(main())
