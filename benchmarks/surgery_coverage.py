"""Which networks can be cut, how far, and whether the cut is exact.

python benchmarks/surgery_coverage.py                  # the table in docs/surgery_coverage.md
python benchmarks/surgery_coverage.py --only resnet18  # these rows again
python benchmarks/surgery_coverage.py --table          # the table again, from the results

Rows that are in the results file already are not done again, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import debride
from common_networks import Entry, networks
from debride.files import write_atomic
from debride.planning.budgets import cost_model
from debride.planning.costs import measure
from debride.planning.fitting import lowest_share
from debride.planning.groups import find_groups
from debride.planning.limits import Limits
from debride.planning.make import finish
from debride.planning.plan import Group, Plan, PlannedGroup
from debride.planning.trial import explained_part
from debride.pruning import Pruned

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "surgery_coverage.json"
TABLE = HERE.parent / "docs" / "surgery_coverage.md"
RATIOS = (0.1, 0.5, 0.9)
UNEVEN = "uneven"
LIMIT = 1e-4
"""Largest difference between masked and removed, in float32."""

NETWORKS: dict[str, tuple[str, ...]] = {
    "torchvision": (
        "resnet18", "resnet50", "resnext50_32x4d", "vgg19", "vgg19_bn", "densenet121",
        "googlenet", "inception_v3", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_large",
        "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t",
    ),
    "timm": (
        "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
        "convnext_atto", "mobilevit_xxs",
    ),
}  # fmt: skip
"""Of these families; of every other, all, but for those that are only explained so far."""

REPRESENTATIVE = (
    "resnext50_32x4d", "densenet121", "mobilenet_v3_large", "vit_tiny_patch16_224", "swin_t",
    "SegResNet",
)  # fmt: skip
"""What CI cuts at a ratio of one half."""


def _square(name: str, size: int) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=10, img_size=size)


STREAMS = (
    "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "mobilevit_xxs",
    "UNETR",
)  # fmt: skip
"""Whose residual streams are cut too, in rows of their own; so are Hugging Face's."""

WIDE = ", residual width"
"""Ends the names of those rows."""

SMALLER: dict[str, tuple[int, Callable[[], nn.Module] | None]] = {
    "vit_b_16": (
        64,
        lambda: torchvision.models.vit_b_16(num_classes=10, image_size=64),
    ),
    "vit_tiny_patch16_224": (64, _square("vit_tiny_patch16_224", 64)),
    "deit_tiny_patch16_224": (64, _square("deit_tiny_patch16_224", 64)),
    "swin_tiny_patch4_window7_224": (112, _square("swin_tiny_patch4_window7_224", 112)),
    "convnext_atto": (64, None),
    "mobilevit_xxs": (64, None),
}
"""Networks that do with smaller images here, and how they are then made."""


def entries() -> list[Entry]:
    """Return the rows of the table."""
    found = []
    for entry in networks():
        named = NETWORKS.get(entry.family, (entry.name,))
        if entry.name not in named or entry.family.endswith(", others"):
            continue
        if entry.name in SMALLER:
            size, make = SMALLER[entry.name]
            entry = replace(entry, shape=(3, size, size), make=make or entry.make)
        found.append(entry)
        if entry.name in STREAMS or entry.family == "Hugging Face":
            found.append(replace(entry, name=entry.name + WIDE))
    return found


def check(entry: Entry, ratios: Sequence[float] = RATIOS, *, uneven: bool = True) -> dict[str, Any]:
    """Cut one network several ways and say what held."""
    model, images = entry.prepared(), entry.images()
    with torch.no_grad():
        for parameter in model.parameters():  # a layer scale that hides its block
            if parameter.abs().max() < 1e-4:
                parameter.normal_(0, 0.1)
    start = time.perf_counter()
    grouping = find_groups(model, images, residual_width=entry.name.endswith(WIDE))
    row: dict[str, Any] = {
        "family": entry.family,
        "name": entry.name,
        "shape": entry.shape,
        "tracing_seconds": round(time.perf_counter() - start, 1),
        "units": dict(Counter({g.kind: 0 for g in grouping.groups})),
        "left_alone": [[left.name, left.units, left.reason] for left in grouping.left_alone],
        "plans": {},
    }
    for group in grouping.groups:
        row["units"][group.kind] += group.units
    for kind in ("params", "macs"):
        cost = cost_model(kind, model, grouping.groups, images)
        row[f"{kind}_reached"] = 1 - cost.fixed / (cost.fixed + float(cost.base.sum()))
    scores = debride.score(model, [images], criterion="random", groups=grouping.groups)
    before = _output(model, images)
    for ratio in ratios:
        try:
            made = debride.plan(
                model, scores, images, ratio=ratio, ranking="layer", groups=grouping.groups
            )
        except debride.DebrideError as error:
            row["plans"][str(ratio)] = {"refused": str(error)}
            cost = cost_model("ratio", model, grouping.groups, images)
            most = math.floor(1000 * (1 - lowest_share(grouping.groups, cost, Limits()))) / 1000
            made = debride.plan(
                model, scores, images, ratio=most, ranking="layer", groups=grouping.groups
            )
            row["plans"][str(most)] = _tried(model, made, images, before)
        else:
            row["plans"][str(ratio)] = _tried(model, made, images, before)
    if uneven:
        made = finish(model, _uneven(grouping.groups), images, {})
        row["plans"][UNEVEN] = _tried(model, made, images, before) | {
            "bit_equal": _comes_back(model, made, images)
        }
    return row


def _uneven(groups: Sequence[Group]) -> list[PlannedGroup]:
    """Keep a random number of random units in every group."""
    generator = torch.Generator().manual_seed(1)
    planned = []
    for group in groups:
        least = max(1, group.units // 8)
        kept = int(torch.randint(least, group.units + 1, (), generator=generator))
        planned.append(
            group.planned(torch.randperm(group.units, generator=generator)[:kept].tolist())
        )
    return planned


def _tried(model: nn.Module, made: Plan, images: Tensor, before: Tensor) -> dict[str, Any]:
    removed = debride.apply(model, made)
    found, cost = _output(removed, images), measure(removed, images)
    smallest = min(min(p.shape, default=1) for p in removed.parameters())
    del removed
    expected = _output(debride.apply(model, made, masks=True), images)
    return {
        "difference": float((found - expected).abs().max()),
        "changed_by": float((expected - before).abs().max()),
        "params": made.params_kept,
        "macs": made.macs_kept,
        "cost_as_measured": cost == made.after,
        "smallest_dimension": smallest,
    }


def _comes_back(model: nn.Module, made: Plan, images: Tensor) -> bool:
    removed = debride.apply(model, made)
    expected = _output(removed, images)
    with tempfile.TemporaryDirectory() as folder:
        debride.save(Pruned(removed, made, None, (), {}), Path(folder) / "run")
        loaded = debride.load(Path(folder) / "run", model)
        return torch.equal(_output(loaded, images), expected)


def _output(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return explained_part(model.eval()(images))


def verdict(row: dict[str, Any]) -> str:
    """Say what of a row does not hold, nothing if all does."""
    if "error" in row:
        return str(row["error"])
    faults = []
    for name, found in row["plans"].items():
        if "refused" in found:
            faults.append(f"{name} is refused: {found['refused']}")
            continue
        if not found["difference"] <= LIMIT:
            faults.append(f"{name}: masked and removed differ by {found['difference']:.1e}")
        if found["changed_by"] == 0:
            faults.append(f"{name}: the cut changes nothing")
        if not found["cost_as_measured"]:
            faults.append(f"{name}: the cost is not what was said")
        if found["smallest_dimension"] < 1:
            faults.append(f"{name}: a layer is cut to nothing")
        if not found.get("bit_equal", True):
            faults.append(f"{name}: comes back from disk with other outputs")
    evenly = [p for name, p in row["plans"].items() if name != UNEVEN and "refused" not in p]
    for kind in ("params", "macs"):
        sizes = [plan[kind] for plan in evenly]
        if sizes != sorted(sizes, reverse=True) or len(set(sizes)) != len(sizes):
            faults.append(f"{kind} do not fall as the ratio rises")
    return "; ".join(faults)


def parity() -> dict[tuple[str, str], str]:
    """Return how far onnxruntime is from torch, of each network that was exported."""
    rows = json.loads((RESULTS.parent / "export_coverage.json").read_text())["rows"]
    return {(r["family"], r["name"]): f"{r['max_abs']:.0e}" for r in rows if "max_abs" in r}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Make the Markdown page."""
    held = sum(not verdict(row) for row in rows)
    exported = parity()
    ratios = ", ".join(map(str, RATIOS))
    lines = [
        "# Which networks can be cut",
        "",
        "Made by `python benchmarks/surgery_coverage.py`; do not edit. Random weights, norms drawn",
        f"at random, one image, float32. **{held} of {len(rows)} rows hold all of it**: cut at",
        f"channel ratios of {ratios} (the same part of every layer, random units) and by an",
        "uneven random plan (other widths in every layer, other numbers of heads in every block),",
        "the smaller network gives what the masked one gives (largest difference ≤ 1e-4), its",
        "parameters and MACs, counted tensor by tensor and by `torch.utils.flop_counter`, are",
        "exactly what the plan says, they fall as the ratio rises, no layer is cut to nothing, and",
        "the unevenly cut network comes back from disk with bit-equal outputs.",
        "",
        "Rows of *residual width* cut the width of residual streams as well (`--residual-width`).",
        "Where a ratio is refused, the nearest that is not holds all of the rest.",
        "",
        "`reached` is the part of parameters and of MACs in layers that shrink with the units, and",
        "`kept` what is left of the MACs at each ratio. The ONNX column is how far onnxruntime is",
        "from torch with every second unit cut ([more](export_coverage.md)); rows of residual",
        "width were not exported.",
        "",
        "| family | network | image | units | reached (params, MACs) | differs by "
        f"| MACs kept at {ratios} | ONNX | holds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = "×".join(str(n) for n in row["shape"])
        if "error" in row:
            lines.append(
                f"| {row['family']} | {row['name']} | {size} |  |  |  |  |  | {verdict(row)} |"
            )
            continue
        units = ", ".join(f"{n} {_PLURAL[kind]}" for kind, n in row["units"].items())
        reached = f"{row['params_reached']:.0%}, {row['macs_reached']:.0%}"
        worst = max(plan.get("difference", 0.0) for plan in row["plans"].values())
        kept = ", ".join(
            f"{row['plans'][str(r)]['macs']:.2f}" if "macs" in row["plans"].get(str(r), {}) else "–"
            for r in RATIOS
        )
        lines.append(
            f"| {row['family']} | {row['name']} | {size} | {units} | {reached} | {worst:.0e} "
            f"| {kept} | {exported.get((row['family'], row['name']), '–')} "
            f"| {verdict(row) or 'yes'} |"
        )
    lines += [
        "",
        "## What is left alone",
        "",
        "| network | units | layers | reason |",
        "|---|---|---|---|",
    ]
    for row in rows:
        reasons: dict[str, list[int]] = {}
        for _, units, reason in row.get("left_alone", ()):
            reasons.setdefault(reason, []).append(units)
        for reason, units in reasons.items():
            name = f"{row['family']} {row['name']}"
            lines.append(f"| {name} | {sum(units)} | {len(units)} | {reason} |")
    return "\n".join([*lines, ""])


_PLURAL = {
    "channel": "channels",
    "neuron": "neurons",
    "head": "heads",
    "head_dim": "head dimensions",
}


def _read() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="do the rows of these names again")
    parser.add_argument("--again", action="store_true", help="do all rows again")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    wanted = entries()
    order = {(entry.family, entry.name): place for place, entry in enumerate(wanted)}
    rows = {(row["family"], row["name"]): row for row in _read()}
    rows = {key: row for key, row in rows.items() if key in order}
    todo = [
        entry
        for entry in wanted
        if not options.table
        and (
            entry.name in options.only
            if options.only
            else options.again or (entry.family, entry.name) not in rows
        )
    ]
    start = time.perf_counter()
    for number, entry in enumerate(todo, 1):
        try:
            row = check(entry)
        except Exception as error:  # a row that fails is in the table as failing
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            row = {"family": entry.family, "name": entry.name, "shape": entry.shape, "error": said}
        rows[entry.family, entry.name] = row
        ordered = [rows[key] for key in sorted(rows, key=order.__getitem__)]
        write_atomic(RESULTS, json.dumps(ordered, indent=1) + "\n")
        left = (time.perf_counter() - start) / number * (len(todo) - number)
        print(
            f"{number}/{len(todo)}", entry.family, entry.name, verdict(row) or "holds",
            f"({left / 60:.0f} min left)", flush=True,
        )  # fmt: skip
    write_atomic(TABLE, table([rows[key] for key in sorted(rows, key=order.__getitem__)]))


if __name__ == "__main__":
    main()
