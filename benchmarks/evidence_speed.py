"""Measures of heatmaps against Quantus, on the same images, heatmaps and masks in the same run.

Likeness is held against Quantus's similarity functions (scipy, scikit-image), which its
randomisation metrics call; localisation and deletion against its metric classes, called with
ready heatmaps. Times are medians of rounds in which the two take turns, beside the CPU seconds of
one thread; how far the values are apart is said. Quantus is in the extra `oracles`:

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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from debride.evidence.explanations import heatmaps, lrp_explainer, spearman
from debride.evidence.faithfulness import faithfulness
from debride.evidence.likeness import cosine, ssim
from debride.evidence.localisation import TOP, scores
from debride.evidence.state import at_once, frozen

IMAGES, SIDE = 100, 96
FLIPPED = 1536
"""Values that go in a step: PixelFlipping asks that they divide the pixels."""


def maps_and_networks() -> tuple[Any, Tensor, Tensor, list[Tensor]]:
    """Heatmaps of two ResNet-18 for the same images."""
    torch.manual_seed(0)
    networks = [torchvision.models.resnet18(num_classes=7).eval() for _ in range(2)]
    images, targets = torch.randn(IMAGES, 3, SIDE, SIDE), torch.arange(IMAGES) % 7
    explain = lrp_explainer("epsilon")
    with frozen(*networks):
        maps = [heatmaps(network, images, targets, explain, batch_size=25) for network in networks]
    return networks[0], images, targets, maps


def in_turns(functions: Sequence[Callable[[], Any]], rounds: int) -> tuple[list[float], ...]:
    """Median seconds of each, and the least CPU seconds, which a busy machine hardly changes."""
    clocks = (time.perf_counter, time.process_time)
    seconds = np.zeros((2, len(functions), rounds))
    for round_ in range(-1, rounds):  # the first warms up
        for which, function in enumerate(functions):
            begun = [clock() for clock in clocks]
            function()
            if round_ >= 0:
                ended = [clock() for clock in clocks]
                seconds[:, which, round_] = np.subtract(ended, begun)
    return np.median(seconds[0], axis=1).tolist(), seconds[1].min(axis=1).tolist()


def on_one_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Make it compute so."""

    def alone() -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function()
        finally:
            torch.set_num_threads(threads)

    return alone


def row(
    measure: str,
    rounds: int,
    ours: Callable[[], Any],
    theirs: Mapping[str, Callable[[], Any]],
    apart: float,
) -> dict[str, Any]:
    """Time what we call once beside all that they call for it."""
    wall, cpu = in_turns([ours, on_one_thread(ours), *theirs.values()], rounds)
    return {
        "measure": measure, "debride_s": wall[0], "debride_one_thread_s": wall[1],
        "quantus_s": sum(wall[2:]), "times": sum(wall[2:]) / wall[0],
        "debride_one_thread_cpu_s": cpu[1], "quantus_cpu_s": sum(cpu[2:]),
        "cpu_times": sum(cpu[2:]) / cpu[1],
        "quantus_each_cpu_s": dict(zip(theirs, cpu[2:], strict=True)),
        "largest_difference": apart,
    }  # fmt: skip


def likeness_rows(first: Tensor, second: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Time each measure that both have; Quantus is given float64, as we compute."""
    from quantus.functions import similarity_func as theirs
    from skimage.metrics import structural_similarity

    scaled = [each.double() / each.double().abs().amax((1, 2), keepdim=True)
              for each in (first, second)]  # fmt: skip
    flat = [each.double().flatten(1).numpy() for each in (first, second)]
    planes = [each.numpy() for each in scaled]

    def pairs(function: Callable[..., Any], of: list[Any], **given: Any) -> list[float]:
        return [function(a, b, **given) for a, b in zip(*of, strict=True)]

    rows = []
    for name, ours, slow, values in (
        ("Spearman", lambda: spearman(first, second),
         lambda: pairs(theirs.correlation_spearman, flat), None),
        # Quantus takes the range from each pair, we and the paper one for all
        ("SSIM", lambda: ssim(first, second), lambda: pairs(theirs.ssim, planes),
         lambda: pairs(structural_similarity, planes, data_range=2.0)),
        ("cosine", lambda: cosine(first, second),
         lambda: [1 - value for value in pairs(theirs.cosine, flat)], None),
    ):  # fmt: skip
        apart = float(np.abs(ours().numpy() - np.array((values or slow)())).max())
        rows.append(
            row(f"{name}, {len(first)} pairs", rounds, ours, {"similarity function": slow}, apart)
        )
    return rows


def localisation_rows(
    network: Any, images: Tensor, targets: Tensor, maps: Tensor, rounds: int
) -> list[dict[str, Any]]:
    """Time the four of `scores` beside the four classes, mass with what is positive, as ours.

    Once as users call them, and once without the checks of what they are given, which loop over
    the values.
    """
    import quantus

    masks = torch.zeros(maps.shape, dtype=torch.bool)
    for image, mask in enumerate(masks):
        mask[10 + image % 30 : 50, 20 : 40 + image % 40] = True
    asked: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
    classes = {
        "RelevanceMassAccuracy": (quantus.RelevanceMassAccuracy(**asked), maps.clamp(min=0)),
        "RelevanceRankAccuracy": (quantus.RelevanceRankAccuracy(**asked), maps),
        "PointingGame": (quantus.PointingGame(**asked), maps),
        "TopKIntersection": (quantus.TopKIntersection(k=round(TOP * SIDE**2), **asked), maps),
    }

    def calling(metric: Any, heat: Tensor) -> Callable[[], Any]:
        given = {
            "x_batch": images.numpy(), "y_batch": targets.numpy(), "a_batch": heat[:, None].numpy(),
            "s_batch": masks[:, None].numpy(), "channel_first": True, "batch_size": len(images),
        }  # fmt: skip
        return lambda: metric(model=network, device="cpu", **given)

    theirs = {name: calling(*each) for name, each in classes.items()}
    values = np.stack([np.array(call(), dtype=float) for call in theirs.values()], axis=1)
    apart = float(np.abs(scores(maps, masks).numpy() - values).max())
    arrays = {"s_batch": masks[:, None].numpy()}
    unchecked = {
        name: partial(metric.evaluate_batch, a_batch=heat[:, None].numpy(), **arrays)
        for name, (metric, heat) in classes.items()
    }
    name, ours = f"localisation, four measures, {len(images)} images", lambda: scores(maps, masks)
    return [
        row(name, rounds, ours, theirs, apart),
        row(f"{name}, Quantus without its checks", rounds, ours, unchecked, apart),
    ]


def deletion_row(
    network: Any, images: Tensor, targets: Tensor, maps: Tensor, rounds: int
) -> dict[str, Any]:
    """Time deletion beside PixelFlipping, with as many steps and the same baseline.

    Quantus flips the values of the channels one by one, three of a pixel in turn. The images'
    channels have a mean of zero, the baseline of both.
    """
    import quantus

    images = images - images.mean((2, 3), keepdim=True)
    steps = images[0].numel() // FLIPPED
    metric = quantus.PixelFlipping(
        features_in_step=FLIPPED, perturb_baseline=0.0, normalise=False,
        abs=False, disable_warnings=True,
    )  # fmt: skip
    with frozen(network):
        batch = at_once(network, images)

        def ours() -> Any:
            return faithfulness(
                network, images, maps, targets, "multiclass", steps=steps, batch=batch
            )

        def theirs() -> Any:
            return metric(
                model=network, x_batch=images.numpy(), y_batch=targets.numpy(),
                a_batch=maps[:, None].numpy(), device="cpu", softmax=True, channel_first=True,
                batch_size=batch,
            )  # fmt: skip

        with torch.no_grad():
            whole = network(images).softmax(1).gather(1, targets[:, None])
        curves = np.concatenate([whole.numpy(), np.array(theirs())], axis=1)
        areas = np.trapezoid(curves, dx=1 / steps, axis=1)
        apart = float(np.abs(np.array(ours()["deletion"]) - areas).max())
        name = f"deletion, {len(images)} images, {steps} steps (ours: insertion too)"
        return row(name, rounds, ours, {"PixelFlipping": theirs}, apart)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evidence_speed.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deletion", type=int, default=32, help="images that deletion is timed on")
    arguments = parser.parse_args()
    if importlib.util.find_spec("quantus") is None:
        print("Quantus is not installed: pip install -e '.[oracles]'", file=sys.stderr)
        return 1
    import quantus

    warnings.simplefilter("ignore")
    network, images, targets, maps = maps_and_networks()
    rows = likeness_rows(*maps, arguments.rounds)
    rows += localisation_rows(network, images, targets, maps[0], arguments.rounds)
    some = [each[: arguments.deletion] for each in (images, targets, maps[0])]
    rows.append(deletion_row(network, *some, arguments.rounds))
    result = {
        "images": IMAGES, "side": SIDE, "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__, "quantus": quantus.__version__,
        "python": platform.python_version(), "rows": rows,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for each in rows:
        fast, slow, alone, theirs = (
            1e3 * each[f"{name}_s"]
            for name in ("debride", "quantus", "debride_one_thread_cpu", "quantus_cpu")
        )
        print(f"{each['measure']}: {fast:.2f} ms, Quantus {slow:.2f}, {each['times']:.1f} times; "
              f"CPU {alone:.2f} and {theirs:.2f}, {each['cpu_times']:.1f} times; "
              f"{each['largest_difference']:.0e} apart")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
