"""Measures of likeness against Quantus, on the same heatmaps in the same run.

Quantus's similarity functions take one pair of maps at a time (scipy, scikit-image); ours take
the batch. Times are medians of rounds in which the two take turns; values are compared first.
Quantus is in the extra `oracles`:

    pip install -e '.[oracles]'
    python benchmarks/evidence_speed.py --out benchmarks/results/evidence_speed.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from debride.evidence.explanations import heatmaps, lrp_explainer, spearman
from debride.evidence.faithfulness import faithfulness
from debride.evidence.likeness import cosine, ssim
from debride.evidence.state import at_once, frozen

IMAGES, SIDE, ROUNDS = 100, 96, 5


def maps_and_networks() -> tuple[Any, Tensor, Tensor, list[Tensor]]:
    """Heatmaps of two ResNet-18 for the same images."""
    torch.manual_seed(0)
    networks = [torchvision.models.resnet18(num_classes=7).eval() for _ in range(2)]
    images, targets = torch.randn(IMAGES, 3, SIDE, SIDE), torch.arange(IMAGES) % 7
    explain = lrp_explainer("epsilon")
    with frozen(*networks):
        maps = [heatmaps(network, images, targets, explain, batch_size=25) for network in networks]
    return networks[0], images, targets, maps


def in_turns(*functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each."""
    seconds: list[list[float]] = [[] for _ in functions]
    for round_ in range(ROUNDS + 1):
        for times, function in zip(seconds, functions, strict=True):
            begun = time.perf_counter()
            function()
            if round_:  # the first warms up
                times.append(time.perf_counter() - begun)
    return [float(np.median(times)) for times in seconds]


def likeness_rows(first: Tensor, second: Tensor) -> list[dict[str, Any]]:
    """Time each measure that both have."""
    from quantus.functions import similarity_func as theirs

    scaled = [each.double() / each.double().abs().amax((1, 2), keepdim=True)
              for each in (first, second)]  # fmt: skip
    flat = [each.double().flatten(1).numpy() for each in (first, second)]
    planes = [each.numpy() for each in scaled]
    rows = []
    for name, ours, slow in (
        ("Spearman", lambda: spearman(first, second),
         lambda: [theirs.correlation_spearman(a, b) for a, b in zip(*flat, strict=True)]),
        ("SSIM", lambda: ssim(first, second),
         lambda: [theirs.ssim(a, b) for a, b in zip(*planes, strict=True)]),
        ("cosine", lambda: cosine(first, second),
         lambda: [1 - theirs.cosine(a, b) for a, b in zip(*flat, strict=True)]),
    ):  # fmt: skip
        difference = float(np.abs(ours().numpy() - np.array(slow())).max())
        fast, other = in_turns(ours, slow)
        rows.append({"measure": name, "debride_s": fast, "quantus_s": other,
                     "times": other / fast, "largest_difference": difference})  # fmt: skip
    return rows


def deletion_row(network: Any, images: Tensor, targets: Tensor, maps: Tensor) -> dict[str, Any]:
    """Time deletion: Quantus's PixelFlipping, with as many steps and the same maps."""
    import quantus

    some, steps = slice(0, 32), 16
    with frozen(network):
        batch = at_once(network, images)
        given = (network, images[some], maps[some], targets[some], "multiclass")

        def ours() -> Any:
            return faithfulness(*given, steps=steps, batch=batch)

        def slow() -> Any:
            metric = quantus.PixelFlipping(
                features_in_step=SIDE * SIDE // steps, perturb_baseline="mean",
                disable_warnings=True,
            )  # fmt: skip
            return metric(
                model=network, x_batch=images[some].numpy(), y_batch=targets[some].numpy(),
                a_batch=maps[some, None].numpy(), device="cpu", softmax=True, channel_first=True,
            )  # fmt: skip

        fast, other = in_turns(ours, slow)
    # ours makes both curves in this time
    return {"measure": "deletion (and ours: insertion too), 32 images, 16 steps",
            "debride_s": fast, "quantus_s": other, "times": other / fast}  # fmt: skip


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence_speed.json"))
    arguments = parser.parse_args()
    if importlib.util.find_spec("quantus") is None:
        print("Quantus is not installed: pip install -e '.[oracles]'", file=sys.stderr)
        return 1
    import quantus

    warnings.simplefilter("ignore")
    network, images, targets, maps = maps_and_networks()
    rows = likeness_rows(*maps)
    rows.append(deletion_row(network, images, targets, maps[0]))
    result = {
        "images": IMAGES, "side": SIDE, "rounds": ROUNDS, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "quantus": quantus.__version__,
        "python": platform.python_version(), "rows": rows,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['measure']:>10}: {row['debride_s'] * 1e3:9.2f} ms, Quantus "
              f"{row['quantus_s'] * 1e3:9.2f} ms, {row['times']:6.1f} times")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
