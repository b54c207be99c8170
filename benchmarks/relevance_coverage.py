"""Which networks a relevance pass explains, with no line written for any of them.

python benchmarks/relevance_coverage.py                  # the table in docs/relevance_coverage.md
python benchmarks/relevance_coverage.py --only resnet18  # some of it, on the screen only
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from common_networks import Entry, networks
from debride.models.outputs import first_tensor
from debride.relevance import audit

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "relevance_coverage.json"
TABLE = HERE.parent / "docs" / "relevance_coverage.md"
RULES = ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "dlb")


def check(entry: Entry) -> dict[str, Any]:
    """Explain one network by every rule set and say what held."""
    model, images = entry.prepared(), entry.images()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        plain = first_tensor(model(images.clone()))
    assert plain is not None
    row: dict[str, Any] = {"family": entry.family, "name": entry.name, "shape": entry.shape}
    row["rules"] = {}
    for rules in RULES:
        start = time.perf_counter()
        seen: list[torch.Tensor] = []

        def target(output: Any, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            found = first_tensor(output)
            assert found is not None
            seen.append(found.detach())
            if callable(entry.target):
                values: torch.Tensor = entry.target(output)
                return values
            return found[:, entry.target]

        found = audit(model, images, target, rules=rules)
        relevance = found.relevance
        scale = max(1.0, float(relevance.output.abs().sum()))
        row["rules"][rules] = {
            "output": float(relevance.output.sum()),
            "shares": dict(relevance.shares),
            "missing": abs(relevance.delta) / scale,
            "worst_layer": max(abs(layer.missing) for layer in found.layers) / scale,
            "forward": float((seen[0] - plain).abs().max()),
            "finite": bool(torch.isfinite(relevance.input).all()),
            "input": float(relevance.input.abs().sum()),
            "joins": len(found.joins),
            "dead": [f"{j.name} ({j.operator})" for j in found.joins if j.dead],
            "unknown": {name: list(places) for name, places in relevance.unknown.items()},
            "seconds": time.perf_counter() - start,
        }
    row["unchanged"] = not model.training and all(
        torch.equal(value, state[key]) for key, value in model.state_dict().items()
    )
    return row


def verdict(row: dict[str, Any]) -> str:
    """Say what of a row does not hold, nothing if all does."""
    if "error" in row:
        return str(row["error"])
    faults = [] if row["unchanged"] else ["the model changed"]
    for rules, found in row["rules"].items():
        if found["unknown"]:
            faults.append(f"{rules}: no rule for {', '.join(found['unknown'])}")
        if not found["finite"] or found["input"] == 0:
            faults.append(f"{rules}: relevance not finite, or none")
        if found["missing"] > 1e-3:
            faults.append(f"{rules}: {found['missing']:.1e} missing")
        if found["forward"] > 1e-5:
            faults.append(f"{rules}: forward differs by {found['forward']:.1e}")
        if found["dead"]:
            faults.append(f"{rules}: nothing reaches a branch of {', '.join(found['dead'])}")
    return "; ".join(faults)


def table(rows: list[dict[str, Any]]) -> str:
    """Make the Markdown page."""
    held = sum(not verdict(row) for row in rows)
    lines = [
        "# Which networks a relevance pass explains",
        "",
        "Made by `python benchmarks/relevance_coverage.py`; do not edit. Random weights, batch",
        "norms drawn at random, one image, float32. No line of Debride is written for any of these",
        f"networks. {held} of {len(rows)} rows hold all of it: the forward is unchanged (largest",
        "difference ≤ 1e-5), the ledger (input, constants, softmax remainder, reported losses)",
        "sums to the explained output within 1e-3, relevance reaches both operands of every sum",
        "and product of activations (residuals; Q, K and V) outside of gates, nothing is NaN,",
        "every operator has a rule, and the model comes back as it was.",
        "",
        "`missing` is the largest of all rule sets' |output − ledger| / max(1, |output|).",
        "",
        "| family | network | image | missing | forward differs by | sums and products | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        size = "×".join(str(n) for n in row["shape"])
        if "error" in row:
            numbers = " | | "
        else:
            every = row["rules"].values()
            numbers = (
                f"{max(r['missing'] for r in every):.0e} | {max(r['forward'] for r in every):.0e} "
                f"| {max(r['joins'] for r in every)}"
            )
        lines.append(
            f"| {row['family']} | {row['name']} | {size} | {numbers} | {verdict(row) or 'yes'} |"
        )
    lines += ["", f"Rule sets: {', '.join(RULES)}."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="names of networks; writes no file")
    parser.add_argument("--family", nargs="+", help="redo these families, keep the other rows")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    rows = []
    if not options.table:
        kept = json.loads(RESULTS.read_text()) if options.family and RESULTS.exists() else []
        rows = [row for row in kept if row["family"] not in (options.family or ())]
        for entry in networks():
            if options.only and entry.name not in options.only:
                continue
            if options.family and entry.family not in options.family:
                continue
            try:
                row = check(entry)
            except Exception as error:  # a row that fails is in the table as failing
                said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                row = {"family": entry.family, "name": entry.name, "shape": entry.shape}
                row["error"] = said
            print(entry.family, entry.name, verdict(row) or "holds", flush=True)
            rows.append(row)
        if options.only:
            return
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    TABLE.write_text(table(rows or json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
