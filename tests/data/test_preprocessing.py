from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from debride.data import Preprocessing, measure_normalisation, open_images
from debride.errors import DebrideError

from .pictures import save


def plain(spatial: tuple[int, ...], channels: int = 1, **more: int) -> Preprocessing:
    return Preprocessing(spatial=spatial, channels=channels, mean=(0.0,), std=(1.0,), **more)


def test_rows_stay_rows(tmp_path: Path) -> None:
    pixels = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    image = plain((6, 8)).read(save(tmp_path / "a.png", pixels))
    assert image.dtype == torch.float32
    assert type(image) is torch.Tensor
    torch.testing.assert_close(image, torch.from_numpy(pixels)[None] / 255)


def test_file_and_array_give_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    p = Preprocessing(spatial=(8, 8), channels=3, mean=(0.1, 0.2, 0.3), std=(0.5,), resize=10)
    path = save(tmp_path / "a.png", pixels)
    torch.testing.assert_close(p.read(path), p.read(pixels), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_kind_of_picture(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.full((6, 8), 255, dtype=np.uint8))
    if mode in ("I;16", "I"):
        image = Image.fromarray(
            np.full((6, 8), 65535, dtype=np.uint16 if mode != "I" else np.int32)
        )
    elif mode == "F":
        image = Image.fromarray(np.ones((6, 8), dtype=np.float32))
    else:
        image = (grey.convert("RGB") if mode in ("RGBA", "CMYK") else grey).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I", "F") else "a.png")
    image.save(path)
    for channels in (1, 3):
        read = plain((6, 8), channels).read(path)
        torch.testing.assert_close(read, torch.ones(channels, 6, 8))


def test_sixteen_bits_keep_their_depth(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1000], [1001, 65535]], dtype=np.uint16))
    expected = torch.tensor([[[0, 1000], [1001, 65535]]]) / 65535
    torch.testing.assert_close(plain((2, 2)).read(path), expected)


def test_colour_turns_grey_and_grey_is_repeated() -> None:
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 200
    torch.testing.assert_close(plain((4, 4)).read(red), torch.full((1, 4, 4), 60 / 255))
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    by_pillow = torch.from_numpy(np.array(Image.fromarray(colours).convert("L")))
    difference = plain((8, 8)).read(colours)[0] * 255 - by_pillow
    assert difference.abs().max() < 1.01
    grey = np.full((4, 4), 51, dtype=np.uint8)
    p = Preprocessing(spatial=(4, 4), channels=3, mean=(0.2, 0.1, 0.0), std=(0.1, 0.1, 0.2))
    torch.testing.assert_close(
        p.read(grey)[:, 0, 0], torch.tensor([0.0, 1.0, 1.0]), atol=1e-6, rtol=0
    )


def test_resize_and_crop_as_torchvision_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    steps = [
        v2.Resize(32, antialias=True),
        v2.CenterCrop(24),
        v2.ToDtype(torch.float32, scale=True),
    ]
    path = save(tmp_path / "a.png", pixels)
    expected = v2.Compose(steps)(torch.from_numpy(pixels).movedim(-1, 0))
    found = plain((24, 24), 3, resize=32, crop=24).read(path)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_crop_out_of_a_smaller_image_is_refused() -> None:
    image = np.zeros((20, 30), dtype=np.uint8)
    with pytest.raises(DebrideError, match=r"20 × 30 pixels is too small for a crop of 24"):
        plain((24, 24), 3, crop=24).read(image)
    assert plain((24, 24), 3, resize=24, crop=24).read(image).shape == (3, 24, 24)


def test_resize_alone_crops_to_the_size() -> None:
    pixels = np.zeros((10, 30), dtype=np.uint8)
    pixels[:, 10:20] = 255
    assert plain((10, 10), resize=10).read(pixels).mean() == 1.0
    assert plain((10, 10)).read(pixels).mean() < 0.5


def test_volumes(tmp_path: Path) -> None:
    volume = np.zeros((8, 8, 8), dtype=np.uint8)
    volume[:4] = 200
    small = plain((4, 4, 4)).read(volume)
    assert small.shape == (1, 4, 4, 4)
    torch.testing.assert_close(small[0, :, 0, 0] * 255, torch.tensor([200.0, 200.0, 0.0, 0.0]))
    assert plain((12, 4, 4)).read(volume).shape == (1, 12, 4, 4)


def test_masks_are_moved_without_blurring() -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:6, 2:6] = 128
    record = {"image": mask, "mask": mask}
    found = plain((4, 4)).transform()(record)["mask"]
    expected = torch.zeros(1, 4, 4)
    expected[:, 1:3, 1:3] = 1
    torch.testing.assert_close(found, expected)


def test_augmentation_is_seeded_and_moves_mask_with_image() -> None:
    image = np.zeros((32, 32), dtype=np.uint8)
    image[8:20, 4:12] = 255
    record = {"image": image, "mask": image}
    one, same, other = (
        plain((32, 32)).transform(augment=True, seed=seed)(record) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(one["image"], same["image"], rtol=0, atol=0)
    assert not torch.equal(one["image"], other["image"])
    for each in (one, other):
        bright = (each["image"] > 0.5).float()
        overlap = (bright * each["mask"]).sum() / each["mask"].sum()
        assert overlap > 0.95
        assert set(each["mask"].unique().tolist()) == {0.0, 1.0}


def test_measured_normalisation_normalises() -> None:
    source = open_images("phantom:60")
    mean, std = measure_normalisation(source, (32, 32), 3)
    assert mean[0] == mean[1] == mean[2]
    p = Preprocessing(spatial=(32, 32), channels=3, mean=mean, std=std)
    images = torch.stack([p.read(source.pixels(record)) for record in source.splits["train"]])
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
    assert measure_normalisation(source, (32, 32), 1, limit=10) == measure_normalisation(
        source, (32, 32), 1, limit=10
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean has 2 numbers for 3 channels: give one, or 3"),
        ({"std": (0.0,)}, "must be above 0"),
        ({"spatial": (8,)}, "image size"),
        ({"channels": 2}, "1 .grey. or 3"),
        ({"resize": 10, "crop": 12}, "crop cannot be larger"),
        ({"crop": 0}, "crop is 0"),
    ],
)
def test_refusals(fields: dict[str, object], message: str) -> None:
    given = {"spatial": (8, 8), "channels": 3, "mean": (0.5,), "std": (0.5,), **fields}
    with pytest.raises(DebrideError, match=message):
        Preprocessing(**given)  # type: ignore[arg-type]


def test_reading_errors(tmp_path: Path) -> None:
    with pytest.raises(DebrideError, match="no file"):
        plain((4, 4)).read(tmp_path / "none.png")
    (tmp_path / "bad.png").write_text("text")
    with pytest.raises(DebrideError, match=r"cannot read the image .*bad.png"):
        plain((4, 4)).read(tmp_path / "bad.png")
    with pytest.raises(DebrideError, match="2 spatial axes"):
        plain((4, 4)).read(np.zeros((5, 5, 5, 5), dtype=np.uint8))
    with pytest.raises(DebrideError, match="outside its range"):
        plain((4, 4)).read(np.full((4, 4), 7.0, dtype=np.float32))
