"""Cost of one relevance pass against the network's own forward + backward, in the same run.

    python benchmarks/relevance_speed.py                      # what is missing of the tables
    python benchmarks/relevance_speed.py --peers              # with zennit and captum beside it
    python benchmarks/relevance_speed.py --fresh --peers      # all anew
    python benchmarks/relevance_speed.py --only ResNet-50     # the rows of this network anew

The yardstick is forward + backward to the input, parameters frozen, evaluation mode. Every round
times each contestant once, in turn; a ratio is that of the fastest rounds. Each row is kept as
soon as it is measured, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile

from debride.relevance import attribute
from speed_tables import LIMITS, ZENNIT, table

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "relevance_speed.json"
TABLE = HERE.parent / "docs" / "relevance_speed.md"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-50": (lambda: torchvision.models.resnet50(), (3, 224, 224)),
    "VGG-19": (lambda: torchvision.models.vgg19(), (3, 224, 224)),
    "ViT-B/16": (lambda: timm.create_model("vit_base_patch16_224"), (3, 224, 224)),
    "Swin-T": (lambda: torchvision.models.swin_t(), (3, 224, 224)),
    "DenseNet-121": (lambda: torchvision.models.densenet121(), (3, 224, 224)),
    "3-D UNet": (
        lambda: UNet(3, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2), (1, 64, 64, 64)
    ),
}  # fmt: skip
BATCHES = (1, 8)
LEAST, MOST = 3, 9
"""Rounds: at least, and at most where time allows."""
PROFILED = (("ResNet-50", 1), ("ResNet-50", 8), ("ViT-B/16", 1))
KINDS = {
    "products": ("conv", "mm", "dot_product"),
    "norms": ("norm",),
    "pooling": ("pool",),
    "sums and extremes": ("sum", "mean", "amin", "amax", "any", "all"),
    "copies": ("copy", "clone", "fill", "empty", "zero", "cat"),
}
"""Kinds of torch operators by what their names contain; the others are element-wise."""


def prepared(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval().requires_grad_(False)


def pictures(name: str, batch: int) -> Tensor:
    return torch.randn(batch, *NETWORKS[name][1], generator=torch.Generator().manual_seed(0))


def value(output: Tensor) -> Tensor:
    return output[:, 1].reshape(len(output), -1).sum(1)


def own(model: nn.Module, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(value(model(leaf)).sum(), leaf)


def zennit_pass(model: nn.Module, rules: str) -> Callable[[Tensor], None]:
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    kind = ResNetCanonizer if "ResNet" in type(model).__name__ else VGGCanonizer
    composite = getattr(composites, ZENNIT[rules])(canonizers=[kind()])

    def run(images: Tensor) -> None:
        with Gradient(model, composite) as attributor:
            attributor(images.clone(), torch.eye(1000)[[1] * len(images)])

    return run


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def contestants(name: str, batch: int, peers: bool) -> dict[str, Callable[[], object]]:
    model, images = prepared(name), pictures(name, batch)
    found: dict[str, Callable[[], object]] = {
        "own": lambda: own(model, images),
        **{r: lambda r=r: attribute(model, images, value, rules=r) for r in LIMITS},
    }
    if peers and name in ("ResNet-50", "VGG-19") and batch == 8:
        for rules in ZENNIT:
            run = zennit_pass(model, rules)
            found[f"zennit {rules}"] = lambda run=run: run(images)
    return found


def measure(name: str, batch: int, limit: float, peers: bool) -> dict[str, Any]:
    runs = contestants(name, batch, peers)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {key: [] for key in runs}
    begin, rounds = time.perf_counter(), 0
    while rounds < LEAST or (rounds < MOST and time.perf_counter() - begin < limit):
        rounds += 1
        for key, run in runs.items():
            if rounds <= LEAST or not key.startswith("zennit"):
                times[key].append(seconds(run))
    own_seconds = min(times["own"])
    model, images = prepared(name), pictures(name, batch)
    missing = {
        rules: abs(found.delta) / max(1.0, float(found.output.abs().sum()))
        for rules in LIMITS
        for found in [attribute(model, images, value, rules=rules)]
    }
    return {
        "network": name,
        "batch": batch,
        "rounds": rounds,
        "own_seconds": own_seconds,
        "ratios": {key: min(t) / own_seconds for key, t in times.items() if key != "own"},
        "missing": missing,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.machine(),
    }


def conductance() -> dict[str, Any]:
    """Time IG conductance of all 53 convolutions of ResNet-50 against captum's, 20 steps."""
    from captum.attr import LayerConductance

    model, image = prepared("ResNet-50"), pictures("ResNet-50", 1)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}

    def ours() -> None:
        attribute(model, image, 1, method="ig", n_steps=20, taps=list(layers))

    def theirs() -> None:
        for layer in layers.values():
            LayerConductance(model, layer).attribute(image, target=1, n_steps=20)

    ours()
    mine = min(seconds(ours) for _ in range(3))
    return {"layers": len(layers), "steps": 20, "seconds": mine, "captum_seconds": seconds(theirs)}


def peak(name: str, batch: int, contestant: str) -> float:
    """Return how far memory rises above what the process held before, in MiB; needs Linux."""
    model, images = prepared(name), pictures(name, batch)
    status = Path("/proc/self/status")

    def read(field: str) -> float:
        line = next(row for row in status.read_text().splitlines() if row.startswith(field))
        return int(line.split()[1]) / 1024

    own(model, images[:1])  # what the first call sets up
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = read("VmRSS")
    if contestant == "own":
        own(model, images)
    else:
        attribute(model, images, value, rules=contestant)
    return read("VmHWM") - before


def peaks(name: str, batch: int) -> dict[str, Any]:
    found: dict[str, float] = {}
    for contestant in ("own", *LIMITS):
        # A fresh process each: what one leaves behind would hide the rise of the next.
        words = [sys.executable, __file__, "--peak", name, str(batch), contestant]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found[contestant] = float(said.split()[-1])
    ratios = {key: value / found["own"] for key, value in found.items() if key != "own"}
    return {"network": name, "batch": batch, "own_mib": found["own"], **ratios}


def kind_of(operator: str) -> str:
    if not operator.startswith("aten::"):
        return "the rest"
    for kind, words in KINDS.items():
        if any(word in operator for word in words):
            return kind
    return "element-wise"


def profiles(name: str, batch: int) -> list[dict[str, Any]]:
    """Sum up the time of each kind of operator, against all of the own forward + backward."""
    model, images = prepared(name), pictures(name, batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, rows = 0.0, []
    for which in ("own", *LIMITS):
        run = (
            (lambda: own(model, images))
            if which == "own"
            else (lambda which=which: attribute(model, images, value, rules=which))
        )
        run()
        begin = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            run()
            taken = time.perf_counter() - begin
        parts = dict.fromkeys([*KINDS, "element-wise", "the rest"], 0.0)
        for event in seen.key_averages():
            if kind_of(event.key) != "the rest":
                parts[kind_of(event.key)] += event.self_cpu_time_total / 1e6
        parts["the rest"] = taken - sum(parts.values())
        whole = whole or taken
        shares = {kind: part / whole for kind, part in parts.items()}
        rows.append({"network": name, "batch": batch, "pass": which, "parts": shares})
    torch.set_num_threads(threads)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="networks to measure anew", choices=NETWORKS)
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=30, help="for one row, beyond 3 rounds")
    parser.add_argument("--peers", action="store_true", help="zennit and captum beside it")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--table", action="store_true", help="only make the tables again")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1]), options.peak[2]))
        return
    kept = RESULTS.exists() and not options.fresh
    results = json.loads(RESULTS.read_text()) if kept else {}
    begin = time.perf_counter()

    def missing(part: str, name: str, batch: int) -> bool:
        """Tell whether rows are to be measured, and take old ones out."""
        rows = results.setdefault(part, [])
        here = [row for row in rows if (row["network"], row["batch"]) == (name, batch)]
        if name not in options.only if options.only else here:
            return False
        results[part] = [row for row in rows if row not in here]
        return True

    def keep(part: str, rows: list[dict[str, Any]]) -> None:
        order = list(NETWORKS)
        results[part] = sorted(
            results[part] + rows, key=lambda row: (order.index(row["network"]), row["batch"])
        )
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        for row in rows:
            said = row.get("ratios") or row.get("parts") or row
            short = {k: round(v, 2) for k, v in said.items() if isinstance(v, float)}
            at = time.perf_counter() - begin
            print(f"{at:5.0f} s", part, row["network"], row["batch"], short, flush=True)

    if not options.table:
        cases = [(name, batch) for name in NETWORKS for batch in options.batch]
        for name, batch in cases:
            if missing("rows", name, batch):
                keep("rows", [measure(name, batch, options.seconds, options.peers)])
        for name, batch in PROFILED:
            if missing("profile", name, batch):
                keep("profile", profiles(name, batch))
        for name in NETWORKS:
            if missing("memory", name, max(options.batch)):
                keep("memory", [peaks(name, max(options.batch))])
        if options.peers and (options.fresh or "conductance" not in results):
            results["conductance"] = conductance()
            keep("rows", [])
    TABLE.write_text(table(results))


if __name__ == "__main__":
    main()
