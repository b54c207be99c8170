"""Cost of one relevance pass against the network's own forward + backward, in the same run.

    python benchmarks/relevance_speed.py                     # the table in docs/relevance_speed.md
    python benchmarks/relevance_speed.py --batch 1 8 --peers # more, zennit beside it

The yardstick is forward + backward to the input, parameters frozen, evaluation mode. Every round
times each contestant once, in turn; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from debride.relevance import attribute

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "relevance_speed.json"
TABLE = HERE.parent / "docs" / "relevance_speed.md"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": lambda: torchvision.models.resnet50(),
    "VGG-19": lambda: torchvision.models.vgg19(),
    "ViT-B/16": lambda: timm.create_model("vit_base_patch16_224"),
}
LIMITS = {"epsilon": 1.5, "epsilon_plus": 2.2}


def randomise(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def own(model: nn.Module, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)


def zennit_pass(model: nn.Module) -> Callable[[Tensor], None]:
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    kind = ResNetCanonizer if "ResNet" in type(model).__name__ else VGGCanonizer

    def run(images: Tensor) -> None:
        with Gradient(model, EpsilonPlus(canonizers=[kind()])) as attributor:
            attributor(images, torch.eye(1000)[[0] * len(images)])

    return run


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(name: str, batch: int, rounds: int, peers: bool) -> dict[str, object]:
    torch.manual_seed(0)
    model = randomise(NETWORKS[name]()).requires_grad_(False)
    images = torch.randn(batch, 3, 224, 224)
    contestants: dict[str, Callable[[], object]] = {
        "own": lambda: own(model, images),
        **{r: lambda r=r: attribute(model, images, 0, rules=r) for r in LIMITS},
    }
    if peers and name != "ViT-B/16":
        peer = zennit_pass(model)
        contestants["zennit epsilon_plus"] = lambda: peer(images)
    times: dict[str, list[float]] = {key: [] for key in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for key, run in contestants.items():
            times[key].append(seconds(run))
    medians = {key: statistics.median(value) for key, value in times.items()}
    ledger = {}
    for rules in LIMITS:
        found = attribute(model, images, 0, rules=rules)
        ledger[rules] = {
            "explained": float(found.output.sum()),
            **found.shares,
            "delta": found.delta,
        }
    return {
        "network": name,
        "batch": batch,
        "own_seconds": medians["own"],
        "ratios": {k: v / medians["own"] for k, v in medians.items() if k != "own"},
        "ledger": ledger,
    }


def table(results: dict[str, object]) -> str:
    machine = results["machine"]
    lines = [
        "# Cost of a relevance pass",
        "",
        "Made by `python benchmarks/relevance_speed.py`; do not edit. Ratios of medians to the",
        "network's own forward + backward (to the input, parameters frozen) in the same run;",
        f"224 px, float32, {machine['threads']} CPU threads, torch {machine['torch']}.",
        "",
        "| network | batch | own, s | epsilon (≤ 1.5) | epsilon_plus (≤ 2.2) "
        "| zennit epsilon_plus |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        ratios = row["ratios"]
        peer = ratios.get("zennit epsilon_plus")
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['own_seconds']:.2f} "
            f"| {ratios['epsilon']:.2f} | {ratios['epsilon_plus']:.2f} "
            f"| {'' if peer is None else f'{peer:.2f}'} |"
        )
    lines += [
        "",
        "The ledger of the same passes, summed over the batch:",
        "",
        "| network | batch | rules | explained | input | constants | softmax | lost | missing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        for rules, shares in row["ledger"].items():
            numbers = " | ".join(
                f"{shares[k]:.4f}" for k in ("explained", "input", "constants", "softmax", "lost")
            )
            lines.append(
                f"| {row['network']} | {row['batch']} | {rules} | {numbers} "
                f"| {shares['delta']:.1e} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", action="store_true", help="time zennit beside it")
    parser.add_argument("--table", action="store_true", help="only make the table again")
    options = parser.parse_args()
    if not options.table:
        rows = [
            measure(name, batch, options.rounds, options.peers)
            for name in NETWORKS
            for batch in options.batch
        ]
        machine = {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "processor": platform.machine(),
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    text = table(json.loads(RESULTS.read_text()))
    TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
