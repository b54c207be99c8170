"""The open image sets, as their publishers' tables describe them."""

from __future__ import annotations

from pathlib import Path

import pytest

from debride.data import Preprocessing, loader, open_images


@pytest.mark.parametrize(
    ("name", "channels", "spatial", "train", "test", "grouped"),
    [
        ("blood_wbc", 3, (120, 120), 223, 75, False),
        ("fundus_dr", 3, (171, 256), 442, 147, True),
        ("mednist_6class", 1, (64, 64), 2398, 599, False),
        ("malaria_cells", 1, (50, 50), 5000, 1200, True),
        ("skin_ham10000", 3, (150, 200), 3832, 958, True),
        ("pneumoniamnist/pneumoniamnist.npz", 1, (28, 28), 5232, 624, False),
    ],
)
def test_opens(
    real: Path,
    name: str,
    channels: int,
    spatial: tuple[int, int],
    train: int,
    test: int,
    grouped: bool,
) -> None:
    source = open_images(real / name)
    assert (source.channels, source.spatial) == (channels, spatial)
    assert len(source.splits["train"]) + len(source.splits["val"]) == train
    assert len(source.splits["test"]) == test
    assert any(record.group for record in source.splits["train"]) == grouped
    assert source.skipped == ()


def test_lesion_masks(real: Path) -> None:
    source = open_images(real / "blood_wbc")
    assert all(record.mask for records in source.splits.values() for record in records)
    p = Preprocessing(spatial=(64, 64), channels=3, mean=(0.5,), std=(0.5,))
    batch = next(iter(loader(source, "test", p, batch_size=8, masks=True)))
    # A white cell fills a part of its picture, in the middle of it.
    assert 0.05 < batch["mask"].mean() < 0.7
    assert batch["mask"][..., 28:36, 28:36].mean() > 0.8
