"""Prune real networks on real images with the commands of the README, and make docs/results.md.

    DEBRIDE_DATA=../shared/data python benchmarks/results.py            # what is missing
    python benchmarks/results.py --table                                # only the table again

Every run is a folder under --work (default runs/results), made by `debride train` and
`debride prune`; a run whose folder is there is not made again, so the script resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "results.json"
TABLE = HERE.parent / "docs" / "results.md"


@dataclass(frozen=True)
class Base:
    """A baseline that `debride train` makes."""

    name: str
    data: str
    model: str
    size: int
    epochs: int

    def command(self) -> list[str]:
        return (
            f"train --data {self.data} --model {self.model} --image-size {self.size} "
            f"--epochs {self.epochs} --out {self.name}"
        ).split()


@dataclass(frozen=True)
class Cut:
    """A network that `debride prune` makes of a baseline."""

    name: str
    base: str
    options: str
    limit: float | None = None
    """Points of validation balanced accuracy that may be lost."""

    def command(self, data: str) -> list[str]:
        return f"prune --model {self.base} --data {data} {self.options} --out {self.name}".split()


BASES = (
    Base("r18-malaria", "malaria_cells", "torchvision:resnet18", 64, 4),
    Base("r18-chest", "chest_xray_pneumonia", "torchvision:resnet18", 64, 4),
    Base("r18-pmnist", "pneumoniamnist/pneumoniamnist.npz", "torchvision:resnet18", 28, 6),
    Base("vit-scans", "mednist_6class", "timm:vit_tiny_patch16_224", 64, 4),
)
HALF = "--macs 0.5"
CUTS = (
    Cut("half-r18-malaria", "r18-malaria", HALF, 1.0),
    Cut("half-r18-malaria-bn", "r18-malaria", f"{HALF} --recovery batchnorm", 2.5),
    Cut("half-r18-chest", "r18-chest", HALF, 1.0),
    Cut("half-r18-pmnist", "r18-pmnist", HALF, 1.0),
    Cut("half-vit-scans", "vit-scans", HALF, 1.0),
    Cut("r18-pmnist-15", "r18-pmnist", "--macs 0.15"),
    Cut("r18-pmnist-15-magnitude", "r18-pmnist", "--criterion magnitude --macs 0.15"),
    Cut("r18-pmnist-15-random", "r18-pmnist", "--criterion random --macs 0.15"),
)


SEARCHES = (
    Cut("found-malaria", "r18-malaria", "--max-drop 0.01 --metric balanced_accuracy"),
    Cut("found-chest", "r18-chest", "--max-drop 0.01 --metric balanced_accuracy"),
)


def located(command: list[str], data: Path, work: Path) -> list[str]:
    """Put the folders of this machine into a command."""
    places = {"--data": data, "--out": work}
    if command[0] == "prune":
        places["--model"] = work
    return [
        str(places[before] / word) if before in places else word
        for before, word in zip(["", *command], command, strict=False)
    ]


def shown(command: list[str]) -> str:
    """Write a command as the reader types it."""
    words = ["debride", *command]
    for flag, place in (("--data", "$DEBRIDE_DATA"), ("--out", "runs"), ("--model", "runs")):
        position = words.index(flag) + 1
        if flag != "--model" or command[0] == "prune":
            words[position] = f"{place}/{words[position]}"
    return " ".join(words)


def run(command: list[str], folder: Path, data: Path) -> None:
    if (folder / "report.html").exists():
        return
    words = located(command, data, folder.parent)
    print("+ debride", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "debride.cli", *words], check=True)


def read(folder: Path, cut: Cut, base: Base, data: Path) -> dict[str, Any]:
    """Collect one pruned network's numbers from its folder, and try its masks again."""
    document = json.loads((folder / "run.json").read_text())
    evidence = json.loads((folder / "evidence.json").read_text())
    difference, speed = measure(folder, folder.parent / cut.base, base, data)
    before, after = evidence["performance"]["original"], evidence["performance"]["model"]
    cost = evidence["cost"]
    return {
        "name": cut.name,
        "network": base.model,
        "data": base.data,
        "image_size": base.size,
        "options": cut.options,
        "limit": cut.limit,
        "command": shown(cut.command(base.data)),
        "validation": document["validation"],
        "test": {
            key: {"original": before[key], "model": after[key]}
            for key in ("accuracy", "balanced_accuracy", "roc_auc")
        },
        "test_images": evidence["images"],
        "macs_kept": cost["model"]["macs"] / cost["original"]["macs"],
        "params_kept": cost["model"]["params"] / cost["original"]["params"],
        "bytes_kept": cost["model"]["bytes"] / cost["original"]["bytes"],
        "speed": speed,
        "explanations": evidence["explanations"],
        "masked_minus_removed": difference,
        "seconds": document["seconds"],
        "versions": document["versions"],
    }


def read_search(folder: Path, cut: Cut, base: Base) -> dict[str, Any]:
    """Collect what a search found and what it took from its folder."""
    document = json.loads((folder / "run.json").read_text())
    test = json.loads((folder / "evidence.json").read_text())["performance"]
    curve = document["curve"]
    return {
        "network": base.model,
        "data": base.data,
        "image_size": base.size,
        "options": cut.options,
        "command": shown(cut.command(base.data)),
        "visited": len(curve["points"]) - 1,
        "point": curve["points"][curve["chosen"]],
        "evaluations": curve["evaluations"],
        "seconds": curve["seconds"],
        "validation": document["validation"],
        "test": {key: test[key]["balanced_accuracy"] for key in ("original", "model")},
        "versions": document["versions"],
    }


def measure(folder: Path, original: Path, base: Base, data: Path) -> tuple[float, Any]:
    """Return the largest difference between masked and removed on 64 test images, and the speed.

    Speed is taken here again, one network after the other, so that what else ran while a network
    was pruned is not in it.
    """
    import debride
    from debride.artifact.bundle import read_bundle
    from debride.data.images import open_images
    from debride.data.loading import loader
    from debride.evidence.speed import measure_speed

    bundle = read_bundle(folder)
    assert bundle.plan is not None
    assert bundle.preprocessing is not None
    model = debride.load(original)
    source = open_images(str(data / base.data))
    images = next(iter(loader(source, "test", bundle.preprocessing, batch_size=64)))["image"]
    with torch.no_grad():
        removed = debride.apply(model, bundle.plan).eval()(images)
        masked = debride.apply(model, bundle.plan, masks=True).eval()(images)
    speed = measure_speed(bundle.model, images[:1], original=model)
    return float((removed - masked).abs().max()), speed


def table(results: dict[str, Any]) -> str:
    lines = [
        "# Results",
        "",
        "Made by `python benchmarks/results.py`; do not edit. Networks are trained from scratch",
        "with `debride train`, then cut with `debride prune` as it comes: LRP, 8 steps,",
        "re-attribution and reconstruction in each, 20 reference images a class, no training of",
        "what is left. Every choice is made on validation; test is reported once. One seed: a",
        "direction, not a mean; [the benchmark](benchmark.md) has more. Accuracies are balanced,",
        "in percent. Latency is that of the original over that of the pruned network, in torch,",
        "taken in turns.",
        "",
        "| network, data | asked | MACs kept | parameters kept "
        "| validation before → after (points) | limit | test before → after (points) "
        "| heatmap rank correlation | times as fast, batch 1 / 16 | masked − removed |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        faster = " / ".join(f"{entry['speedup']:.2f}" for entry in row["speed"]["batches"])
        maps = row["explanations"]
        test = row["test"]["balanced_accuracy"]
        data = Path(row["data"]).name
        lines.append(
            f"| {row['network'].split(':')[1]}, {data}, {row['image_size']} px "
            f"| {row['options'].replace('--', '')} "
            f"| {row['macs_kept']:.3f} | {row['params_kept']:.3f} "
            f"| {change(row['validation']['original'], row['validation']['model'])} "
            f"| {'' if row['limit'] is None else '−' + str(row['limit'])} "
            f"| {change(test['original'], test['model'])} "
            f"| {maps['spearman']['mean']:.2f} | {faster} "
            f"| {row['masked_minus_removed']:.0e} |"
        )
    lines += ["", *searches(results["searches"])]
    lines += ["", "The commands, with `DEBRIDE_DATA` naming the folder of images:", "", "```sh"]
    made = [*results["rows"], *results["searches"]]
    lines += [*results["bases"], *(row["command"] for row in made), "```", ""]
    if results["missing"]:
        lines += [f"Not measured yet: {', '.join(results['missing'])}.", ""]
    return "\n".join(lines)


def searches(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Searches",
        "",
        "The largest cut whose validation balanced accuracy is down by at most 0.01, sure to 95 %",
        "(paired bootstrap, so the drop itself must stay well under it). Time is all computing of",
        "the search but for scores and heatmaps, in evaluations of the validation images by the",
        "original; 30 are allowed.",
        "",
        "| network, data | MACs kept | parameters kept | down by at most | validation "
        "before → after (points) | test before → after (points) | networks visited "
        "| time in evaluations | attributions, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        point, valid, test = row["point"], row["validation"], row["test"]
        lines.append(
            f"| {row['network'].split(':')[1]}, {Path(row['data']).name}, {row['image_size']} px "
            f"| {point['macs_kept']:.3f} | {point['params_kept']:.3f} "
            f"| {point['drop_bound']:.4f} | {change(valid['original'], valid['model'])} "
            f"| {change(test['original'], test['model'])} | {row['visited']} "
            f"| {row['evaluations']:.1f} | {row['seconds']['attribution']:.0f} |"
        )
    return lines


def change(before: float, after: float) -> str:
    points = 100 * (after - before)
    return f"{100 * before:.1f} → {100 * after:.1f} ({points:+.1f})".replace("-", "−")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/results"))
    parser.add_argument("--only", nargs="+", help="names of the pruned networks to make")
    parser.add_argument("--collect", action="store_true", help="run nothing, read what is there")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        data = Path(os.environ.get("DEBRIDE_DATA", "../shared/data"))
        bases = {base.name: base for base in BASES}
        rows, found, missing = [], [], []
        for cut in (*CUTS, *SEARCHES):
            base = bases[cut.base]
            folder = options.work / cut.name
            if not options.collect and (not options.only or cut.name in options.only):
                run(base.command(), options.work / base.name, data)
                run(cut.command(base.data), folder, data)
            if not (folder / "report.html").exists():
                missing.append(cut.name)
            elif cut in SEARCHES:
                found.append(read_search(folder, cut, base))
            else:
                rows.append(read(folder, cut, base, data))
        trained = [shown(base.command()) for base in BASES]
        RESULTS.parent.mkdir(exist_ok=True)
        document = {"bases": trained, "rows": rows, "searches": found, "missing": missing}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    text = table(json.loads(RESULTS.read_text()))
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
