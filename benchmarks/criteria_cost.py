"""Cost of every criterion, in multiples of the network's own forward + backward, in one run.

    python benchmarks/criteria_cost.py

Writes `results/criteria_cost.json` and the table at the end of `docs/criteria.md`. The yardstick
is forward + backward to the input of the same batch, parameters frozen, evaluation mode. Every
round times each contestant once, in turn; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from debride import score
from debride.criteria import criterion_names
from debride.errors import DebrideError
from debride.models.spec import ModelSpec, build
from debride.planning.groups import find_groups

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "criteria_cost.json"
PAGE = HERE.parent / "docs" / "criteria.md"
MARK = "<!-- below: made by python benchmarks/criteria_cost.py; do not edit -->\n"
NETWORKS = ("torchvision:resnet18", "timm:vit_tiny_patch16_224")
SIDE = 224
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ratios = {name: measured(name, rounds) for name in NETWORKS}
    found = {
        "rounds": rounds, "batch": BATCH, "side": SIDE, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "machine": platform.machine(), "ratios": ratios,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(before + MARK + table(found), encoding="utf-8")
    print(table(found))


def measured(name: str, rounds: int) -> dict[str, float | None]:
    """Give each criterion's ratio; None where the network has nothing for it to read."""
    torch.manual_seed(0)
    model = build(ModelSpec(source=name, outputs=2, channels=3, spatial=(SIDE, SIDE))).eval()
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH) % 2
    groups = find_groups(model, images[:1]).groups
    taken: dict[str, list[float]] = {}
    cannot = set()
    for turn in range(rounds + 1):  # the first only warms up
        own = seconds(lambda: forward_backward(model, images))
        for criterion in criterion_names():
            try:
                spent = seconds(
                    lambda criterion=criterion: score(
                        model, [(images, labels)], criterion=criterion, groups=groups
                    )
                )
            except DebrideError:
                cannot.add(criterion)
                continue
            if turn:
                taken.setdefault(criterion, []).append(spent / own)
    medians = {criterion: statistics.median(each) for criterion, each in taken.items()}
    return {**medians, **dict.fromkeys(cannot)}


def forward_backward(model: nn.Module, images: Tensor) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def table(found: dict) -> str:
    names = list(found["ratios"])
    lines = [
        f"Ratios to the network's own forward + backward (to the input, parameters frozen): the "
        f"median of\n{found['rounds']} rounds, batch {found['batch']}, {found['side']} px, "
        f"float32, CPU threads: {found['threads']}, torch {found['torch']}. Criteria from weights "
        "are\nread once, however many images there are.\n",
        f"| criterion | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for criterion in sorted(found["ratios"][names[0]]):
        cells = [found["ratios"][name].get(criterion) for name in names]
        said = ["no batch norm" if ratio is None else f"{ratio:.2f}" for ratio in cells]
        lines.append(f"| `{criterion}` | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
