from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from debride.data import ImageSource, Preprocessing, loader, open_images, sample
from debride.errors import DebrideError

P = Preprocessing(spatial=(16, 16), channels=3, mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def source() -> ImageSource:
    return open_images("phantom:60")


def images_of(batches: object) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in batches])  # type: ignore[attr-defined]


def test_batches(source: ImageSource) -> None:
    batches = list(loader(source, "train", P, batch_size=16))
    assert [len(batch["label"]) for batch in batches] == [16, 16, 10]
    assert batches[0]["image"].shape == (16, 3, 16, 16)
    assert batches[0]["image"].dtype == torch.float32
    assert all(type(tensor) is torch.Tensor for tensor in batches[0].values())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(42))
    labels = torch.cat([batch["label"] for batch in batches])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [record.label for record in source.splits["train"]]
    expected = P.read(source.pixels(source.splits["train"][5]))
    torch.testing.assert_close(batches[0]["image"][5], expected)


def test_epochs_differ_and_repeat_with_the_seed(source: ImageSource) -> None:
    one = loader(source, "train", P, shuffle=True, augment=True, seed=7)
    same = loader(source, "train", P, shuffle=True, augment=True, seed=7)
    first, second = images_of(one), images_of(one)
    assert not torch.equal(first, second)
    torch.testing.assert_close(images_of(same), first, rtol=0, atol=0)
    torch.testing.assert_close(images_of(same), second, rtol=0, atol=0)
    resumed = loader(source, "train", P, shuffle=True, augment=True, seed=7)
    resumed.sampler.epoch = 1  # type: ignore[attr-defined]
    torch.testing.assert_close(images_of(resumed), second, rtol=0, atol=0)
    resumed.sampler.epoch = 0  # type: ignore[attr-defined]
    next(iter(resumed))  # an epoch that is left halfway and begun again is the same
    resumed.sampler.epoch = 0  # type: ignore[attr-defined]
    torch.testing.assert_close(images_of(resumed), first, rtol=0, atol=0)


def test_without_shuffle_and_augmentation_epochs_are_equal(source: ImageSource) -> None:
    batches = loader(source, "val", P)
    torch.testing.assert_close(images_of(batches), images_of(batches), rtol=0, atol=0)


def test_nothing_global_is_touched(source: ImageSource) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    list(loader(source, "train", P, shuffle=True, augment=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_indices_and_masks(source: ImageSource) -> None:
    (batch,) = loader(source, "test", P, indices=[4, 2], masks=True)
    assert batch["index"].tolist() == [4, 2]
    assert batch["mask"].shape == (2, 1, 16, 16)
    for position, mask in zip((4, 2), batch["mask"], strict=True):
        normal = source.classes[source.splits["test"][position].label] == "normal"  # type: ignore[index]
        assert (mask.sum() == 0) == normal


def test_memory_is_bounded(source: ImageSource) -> None:
    fresh = open_images("phantom:60")
    one = 16 * 16
    limited = images_of(loader(fresh, "train", P, cache_bytes=20 * one))
    kept = [image for image in fresh._caches["train"][1]._cache if image is not None]
    assert sum(image.nbytes for image in kept) <= 20 * one * 42 // 60
    assert len(kept) == 14
    torch.testing.assert_close(limited, images_of(loader(source, "train", P)), rtol=0, atol=0)


def test_images_are_decoded_once(folder: Path) -> None:
    source = open_images(folder)
    first = images_of(loader(source, "train", P))
    for record in source.splits["train"]:
        Path(record.image).unlink()  # type: ignore[arg-type]
    other = Preprocessing(spatial=(16, 16), channels=3, mean=(0.5,), std=(0.5,))
    again = images_of(loader(source, "train", other))  # another mean, the same decoding
    torch.testing.assert_close(again * 2, first)


def test_grey_and_colour_files_mix(folder: Path) -> None:
    path = folder / "train" / "warm" / "train_warm_0.png"
    Image.open(path).convert("RGB").save(path)
    source = open_images(folder)
    assert source.channels == 3
    assert images_of(loader(source, "train", P)).shape[1:] == (3, 16, 16)


def test_several_labels(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "m.npz",
        train_images=np.zeros((4, 8, 8), np.uint8),
        train_labels=np.array([[1, 1], [0, 1], [1, 0], [0, 0]]),
    )
    source = open_images(tmp_path / "m.npz", validation=0.5)
    batch = next(iter(loader(source, "val", P)))
    assert batch["label"].dtype == torch.float32
    assert batch["label"].shape[1] == 2


def test_volumes_are_augmented(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "v.npz",
        train_images=np.random.default_rng(0).integers(0, 256, (8, 6, 8, 8), dtype=np.uint8),
        train_labels=np.arange(8) % 2,
    )
    source = open_images(tmp_path / "v.npz", validation=0.5)
    p = Preprocessing(spatial=(6, 8, 8), channels=1, mean=(0.5,), std=(0.5,))
    plain, moved = (images_of(loader(source, "train", p, augment=each)) for each in (False, True))
    assert plain.shape == moved.shape == (4, 1, 6, 8, 8)
    assert not torch.equal(plain, moved)


def test_sample_is_stratified_and_seeded(source: ImageSource) -> None:
    chosen = sample(source, "train", 3, seed=1)
    labels = [source.splits["train"][position].label for position in chosen]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # type: ignore[type-var]
    assert chosen == sample(source, "train", 3, seed=1) == sorted(chosen)
    assert chosen != sample(source, "train", 3, seed=2)
    assert len(sample(source, "val", 1000)) == len(source.splits["val"])


def test_refusals(source: ImageSource, folder: Path) -> None:
    with pytest.raises(DebrideError, match="no split 'holdout': it has train, val, test"):
        loader(source, "holdout", P)
    with pytest.raises(DebrideError, match="no masks"):
        loader(open_images(folder), "train", P, masks=True)
    with pytest.raises(DebrideError, match="2 spatial axes and the network expects 3"):
        loader(source, "train", Preprocessing(spatial=(8, 8, 8), channels=1, mean=(0,), std=(1,)))


def test_image_that_vanishes_is_named(folder: Path) -> None:
    source = open_images(folder)
    batches = loader(source, "test", P)
    Path(source.splits["test"][1].image).unlink()  # type: ignore[arg-type]
    with pytest.raises(DebrideError, match=r"cannot read the image .*test_cold_1.png"):
        list(batches)
