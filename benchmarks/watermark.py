"""Reasons that moved while accuracy stayed: networks trained with a watermark and without.

The phantom is drawn once. In the watermarked copy every nodule, in all splits, has a grey square
in a corner. One network learns from it, another from the images as they are, and both are
compared on the watermarked images, on which both are right. Then the same for a copy of the
network, and for a second training on the images as they are.

    python benchmarks/watermark.py            # the table of docs/evidence.md, on test images
    python benchmarks/watermark.py --split val
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from debride.data.phantom import CLASSES, draw
from debride.evidence import Evidence, evaluate
from debride.training import train

IMAGES, EPOCHS, RATE = 1200, 8, 3e-3
NODULE = 1
MARK = (..., slice(1, 7), slice(-7, -1))
GREY = 128
SPLITS = {"train": slice(0, 840), "val": slice(840, 1020), "test": slice(1020, 1200)}


@dataclass(frozen=True)
class Phantom:
    """Images (N, 1, 64, 64) between −1 and 1, their labels, and masks of the lesions."""

    images: Tensor
    labels: Tensor
    masks: Tensor

    def batches(self, split: str) -> list[dict[str, Tensor]]:
        rows = torch.arange(len(self.labels))[SPLITS[split]]
        return [
            {"image": self.images[some], "label": self.labels[some], "mask": self.masks[some]}
            for some in rows.split(60)
        ]


def phantoms() -> tuple[Phantom, Phantom]:
    """Draw the images, and burn the mark into the nodules of a copy."""
    images, labels, masks = draw(IMAGES)
    marked = images.copy()
    nodules = marked[labels == NODULE]
    nodules[MARK] = GREY
    marked[labels == NODULE] = nodules
    truth, places = torch.from_numpy(labels), torch.from_numpy(masks)[:, None]
    plain, burnt = (
        Phantom(torch.from_numpy(some)[:, None].float() / 127.5 - 1, truth, places)
        for some in (images, marked)
    )
    return plain, burnt


def trained(phantom: Phantom, seed: int) -> nn.Module:
    """Train a small residual network from random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model("test_resnet", num_classes=len(CLASSES), in_chans=1)
    known = SPLITS["train"]
    learning = DataLoader(
        TensorDataset(phantom.images[known], phantom.labels[known]),
        batch_size=32, shuffle=True, generator=torch.Generator(),
    )  # fmt: skip
    train(
        network, learning, phantom.batches("val"), task="multiclass", epochs=EPOCHS, lr=RATE,
        classes_counts=phantom.labels[known].bincount().tolist(), seed=seed,
    )  # fmt: skip
    return network.eval()


def compared(
    original: nn.Module,
    model: nn.Module,
    phantom: Phantom,
    *,
    second: nn.Module | None = None,
    split: str = "test",
    explain: int = 99,
) -> Evidence:
    """Compare two networks on a split, without corruptions and speed."""
    return evaluate(
        model, phantom.batches(split), original=original, second=second, classes=CLASSES,
        split=split, explain=explain, robustness=0, speed=False,
    )  # fmt: skip


def row(name: str, found: Evidence) -> str:
    """One line of the table."""
    assert found.verdict is not None
    assert found.statistics is not None
    assert found.localisation is not None
    assert found.reasons is not None
    accuracy = found.statistics["balanced_accuracy"]
    mass = found.localisation["classes"][NODULE]["mass"]
    cells = [name, arrow(accuracy)]
    for reasons in found.reasons.values():
        alike = reasons["classes"]["spearman"][NODULE]["mean"]
        beyond = reasons["yardsticks"][-1]["classes"]["spearman"][NODULE]
        cells.append(f"{alike:.2f}, {beyond:.0%}")
    told = [f"{each['name']} {each['outcome']}" for each in found.verdict["checks"]]
    told = [each for each in told if not each.endswith("pass")]
    return f"| {' | '.join([*cells, arrow(mass), ', '.join(told) or 'all pass'])} |"


def arrow(figure: dict[str, dict[str, float]]) -> str:
    return f"{100 * figure['original']['value']:.1f} → {100 * figure['model']['value']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="test", choices=("val", "test"))
    split = parser.parse_args().split
    plain, burnt = phantoms()
    lesion, again, third = (trained(plain, seed) for seed in (0, 1, 2))
    mark = trained(burnt, 0)
    for name, model, second in (
        ("watermark", mark, None),
        ("watermark, yardstick a second training", mark, again),
        ("unpruned copy", copy.deepcopy(lesion), None),
        ("second training", again, None),
        ("second training, yardstick a third", again, third),
    ):
        print(row(name, compared(lesion, model, burnt, second=second, split=split)), flush=True)
    for name, model in (("lesion", lesion), ("mark", mark)):
        alone = evaluate(
            model, plain.batches(split), split=split, explain=0, robustness=0, speed=False
        )
        print(
            name,
            [f"{each['recall']['model']['value']:.3f}" for each in alone.statistics["classes"]],
        )


if __name__ == "__main__":
    main()
