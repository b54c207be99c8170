"""Cost of one relevance pass against the network's own forward + backward, in the same run.

    python benchmarks/relevance_speed.py                      # what is missing of the table
    python benchmarks/relevance_speed.py --only ResNet-50     # this network anew
    python benchmarks/relevance_speed.py --peers              # zennit and captum beside it
    python benchmarks/relevance_speed.py --memory             # peak memory, a process each

The yardstick is forward + backward to the input, parameters frozen, evaluation mode. Every round
times each contestant once, in turn; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
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

from debride.relevance import attribute

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
LIMITS = {
    "epsilon": 1.3, "attnlrp": 1.3, "epsilon_plus_flat": 1.7, "epsilon_alpha2_beta1_flat": None,
    "dlb": 2.0,
}  # fmt: skip
BATCHES = (1, 8)
ZENNIT = {"epsilon_plus_flat": "EpsilonPlusFlat", "epsilon_alpha2_beta1_flat":
          "EpsilonAlpha2Beta1Flat"}  # fmt: skip


def limit(rules: str, network: str) -> float | None:
    return 2.2 if (rules, network) == ("epsilon_plus_flat", "3-D UNet") else LIMITS[rules]


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


def measure(name: str, batch: int, rounds: int, peers: bool) -> dict[str, Any]:
    runs = contestants(name, batch, peers)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(seconds(run))
    ratios = {
        key: statistics.median(t / o for t, o in zip(taken, times["own"], strict=True))
        for key, taken in times.items()
    }
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
        "own_seconds": statistics.median(times["own"]),
        "ratios": {key: ratio for key, ratio in ratios.items() if key != "own"},
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
    mine = statistics.median(seconds(ours) for _ in range(3))
    return {"layers": len(layers), "steps": 20, "seconds": mine, "captum_seconds": seconds(theirs)}


def peak(name: str, batch: int, contestant: str) -> None:
    """Print how far memory rises above what the process held before, in MiB."""
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
    print(read("VmHWM") - before)


def peaks(name: str, batch: int) -> dict[str, float]:
    found = {}
    for contestant in ("own", *LIMITS):
        words = [sys.executable, __file__, "--peak", name, str(batch), contestant]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found[contestant] = float(said)
    return {key: value / found["own"] for key, value in found.items() if key != "own"} | {
        "own_mib": found["own"]
    }


def table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    lines = [
        "# Cost of a relevance pass",
        "",
        "Made by `python benchmarks/relevance_speed.py`; do not edit. Ratios to the network's own",
        "forward + backward (to the input, parameters frozen) in the same run: the median over the",
        f"rounds, float32, 224 px (3-D UNet: 64³), {rows[0]['threads']} CPU threads, torch",
        f"{rows[0]['torch']}. A number above its limit is in bold. `missing` is the largest",
        "|output − ledger| / max(1, |output|) of these passes.",
        "",
        "| network | batch | own, s | epsilon (≤ 1.3) | attnlrp (≤ 1.3) "
        "| epsilon_plus_flat (≤ 1.7; 3-D UNet 2.2) | epsilon_alpha2_beta1_flat "
        "| dlb (≤ 2.0) | missing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for rules in LIMITS:
            ratio, most = row["ratios"][rules], limit(rules, row["network"])
            text = f"{ratio:.2f}"
            cells.append(f"**{text}**" if most is not None and round(ratio, 2) > most else text)
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['own_seconds']:.2f} | "
            f"{' | '.join(cells)} | {max(row['missing'].values()):.0e} |"
        )
    lines += ["", *_peers(rows), *_conductance(results), *_memory(results)]
    return "\n".join([*lines, ""])


def _peers(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Beside zennit 0.5.1, batch 8",
        "",
        "| network | composite | ours | zennit | times faster | to reach |",
        "|---|---|---|---|---|---|",
    ]
    goals = {
        ("ResNet-50", "epsilon_plus_flat"): 3, ("ResNet-50", "epsilon_alpha2_beta1_flat"): 4,
        ("VGG-19", "epsilon_plus_flat"): 1.45, ("VGG-19", "epsilon_alpha2_beta1_flat"): 2.2,
    }  # fmt: skip
    for row in rows:
        for rules in ZENNIT:
            theirs = row["ratios"].get(f"zennit {rules}")
            if theirs is not None:
                ours = row["ratios"][rules]
                lines.append(
                    f"| {row['network']} | {rules} | {ours:.2f} | {theirs:.2f} "
                    f"| {theirs / ours:.2f} | {goals[row['network'], rules]} |"
                )
    one = {r["network"]: r["own_seconds"] * r["ratios"]["dlb"] for r in rows if r["batch"] == 1}
    lines += [
        "",
        "dl-backtrace 0.1.24 took 21.8 s (ResNet-50) and 105 s (VGG-19) an image on such a "
        "machine, the dlb method "
        + " and ".join(f"{one[n]:.2f} s" for n in ("ResNet-50", "VGG-19") if n in one)
        + " here.",
        "",
    ]
    return lines


def _conductance(results: dict[str, Any]) -> list[str]:
    found = results.get("conductance")
    if not found:
        return []
    return [
        "## Integrated gradients",
        "",
        f"Conductance of all {found['layers']} convolutions of ResNet-50, {found['steps']} steps, "
        f"one image: {found['seconds']:.1f} s in one sweep; captum's `LayerConductance` over the "
        f"same layers {found['captum_seconds']:.0f} s, "
        f"{found['captum_seconds'] / found['seconds']:.0f} times as long (to reach: 20).",
        "",
    ]


def _memory(results: dict[str, Any]) -> list[str]:
    found = results.get("memory")
    if not found:
        return []
    lines = [
        "## Peak memory (≤ 1.6)",
        "",
        "Rise of the process's resident memory, a process each, over that of the own forward +",
        "backward.",
        "",
        f"| network | batch | own, MiB | {' | '.join(LIMITS)} |",
        "|---|---|---|" + "---|" * len(LIMITS),
    ]
    for row in found:
        cells = [
            f"**{row[rules]:.2f}**" if row[rules] > 1.6 else f"{row[rules]:.2f}" for rules in LIMITS
        ]
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['own_mib']:.0f} | {' | '.join(cells)} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="networks to measure anew", choices=NETWORKS)
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="zennit and captum beside it")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak[0], int(options.peak[1]), options.peak[2])
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}

    def keep() -> None:
        order = list(NETWORKS)
        results["rows"].sort(key=lambda row: (order.index(row["network"]), row["batch"]))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        TABLE.write_text(table(results))

    if options.memory:
        results["memory"] = [
            {"network": name, "batch": batch, **peaks(name, batch)}
            for name in options.only or NETWORKS
            for batch in options.batch
        ]
    elif not options.table:
        done = {(row["network"], row["batch"]) for row in results["rows"]}
        for name in options.only or NETWORKS:
            for batch in options.batch:
                if not options.only and (name, batch) in done:
                    continue
                row = measure(name, batch, options.rounds, options.peers)
                print(name, batch, {k: round(v, 2) for k, v in row["ratios"].items()}, flush=True)
                same = (name, batch)
                results["rows"] = [
                    r for r in results["rows"] if (r["network"], r["batch"]) != same
                ] + [row]
                keep()
        if options.peers:
            results["conductance"] = conductance()
    keep()


if __name__ == "__main__":
    main()
