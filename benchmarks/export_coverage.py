"""Which networks, cut to half of their channels, compute the same as ONNX in onnxruntime.

python benchmarks/export_coverage.py                  # goes on; docs/export_coverage.md
python benchmarks/export_coverage.py --redo resnet18  # these rows again
python benchmarks/export_coverage.py --table          # only the page
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from common_networks import Entry, networks
from debride.artifact.onnx import TOLERANCE, OnnxNetwork, compare, export_onnx
from debride.errors import DebrideError
from debride.files import write_atomic
from debride.planning.groups import find_groups
from debride.provenance import versions
from debride.surgery.removal import narrow

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "export_coverage.json"
TABLE = HERE.parent / "docs" / "export_coverage.md"


def halved(entry: Entry) -> tuple[nn.Module, str]:
    """Return the network with every second unit of every group, and what was cut."""
    model = entry.prepared()
    try:
        # a network of its own, as some keep tensors of their last pass
        groups = find_groups(entry.prepared(), entry.images()).groups
    except DebrideError as error:
        return model, str(error)
    narrow(model, [group.planned(range(0, group.units, 2)) for group in groups])
    return model, f"{len(groups)} groups"


def check(entry: Entry) -> dict[str, Any]:
    """Export one network and compare batches of 1 and 3 images; it was traced with 2."""
    begin = time.perf_counter()
    row: dict[str, Any] = {"family": entry.family, "name": entry.name, "shape": entry.shape}
    try:
        model, row["cut"] = halved(entry)
        images = entry.images(4)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            row["opset"] = export_onnx(model, images, file)
            parity = compare(model, OnnxNetwork(file), [images[:1], images[1:]])
            row |= dataclasses.asdict(parity) | {"bytes": file.stat().st_size}
    except Exception as error:  # a row that fails is in the table as failing
        row["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]
    return row | {"seconds": round(time.perf_counter() - begin, 1)}


def verdict(row: dict[str, Any]) -> str:
    """Say what of a row does not hold, nothing if all does."""
    if "error" in row:
        return str(row["error"])
    return "" if row["relative"] <= TOLERANCE else "outputs differ"


def table(rows: list[dict[str, Any]], made_with: dict[str, str]) -> str:
    """Make the Markdown page."""
    held = [row for row in rows if not verdict(row)]
    cut = sum(row["cut"].endswith("groups") for row in held)
    used = ", ".join(f"{name} {made_with[name]}" for name in ("torch", "onnxruntime", "onnxscript"))
    lines = [
        "# Which networks can be exported",
        "",
        "Made by `python benchmarks/export_coverage.py`; do not edit. Every second unit of every",
        "group that can be cut is removed; where nothing can be cut the network is exported whole,",
        "and the table says why. Random weights, batch norms drawn at random, random images,",
        "float32, one file for batches of 1 and 3 images. A row holds when the largest difference",
        f"between onnxruntime and PyTorch is at most {TOLERANCE:g} of the largest output.",
        f"{len(held)} of {len(rows)} rows hold, {cut} of them cut. Made with {used}.",
        "",
        "| family | network | image | cut | max abs Δ | of largest output | top-1 | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = "×".join(str(n) for n in row["shape"])
        numbers = " | | "
        if "error" not in row:
            numbers = f"{row['max_abs']:.0e} | {row['relative']:.0e} | {row['top1']:.2%}"
        lines.append(
            f"| {row['family']} | {row['name']} | {size} | {row.get('cut', '')} | {numbers} "
            f"| {verdict(row) or 'yes'} |"
        )
    done = {(row["family"], row["name"]) for row in rows}
    left = [f"{e.family} {e.name}" for e in networks() if (e.family, e.name) not in done]
    if left:
        lines += ["", f"Not tried yet: {', '.join(left)}."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--redo", nargs="+", default=[], help="names of networks to do again")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    entries = networks()
    done = {
        (row["family"], row["name"]): row
        for row in stored["rows"]
        if row["name"] not in options.redo
    }
    todo = [e for e in entries if (e.family, e.name) not in done and not options.table]
    for number, entry in enumerate(todo, 1):
        row = done[entry.family, entry.name] = check(entry)
        print(
            f"[{number}/{len(todo)}]", entry.family, entry.name, verdict(row) or "holds", flush=True
        )
        rows = [done[e.family, e.name] for e in entries if (e.family, e.name) in done]
        stored = {"versions": made_with(), "rows": rows}
        write_atomic(RESULTS, json.dumps(stored, indent=1) + "\n")
    TABLE.write_text(table(stored["rows"], stored["versions"]))


def made_with() -> dict[str, str]:
    import onnxruntime
    import onnxscript

    more = {"onnxruntime": onnxruntime.__version__, "onnxscript": onnxscript.__version__}
    return versions() | more


if __name__ == "__main__":
    main()
