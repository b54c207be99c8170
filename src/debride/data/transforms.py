"""The steps of preprocessing as MONAI transforms (mypy sees MONAI's classes as Any)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import PILReader
from monai.networks.layers import AffineTransform
from monai.transforms import CenterSpatialCrop, LoadImage, Randomizable, Resize, Transform
from PIL import Image
from torch import Tensor

from debride.data.checks import look, why_unreadable
from debride.data.images import Array
from debride.data.volumes import is_nifti, read_nifti
from debride.errors import DebrideError


def _plain_mode(image: Image.Image) -> Image.Image:
    """Turn palettes, transparency, 1-bit and print colours into grey or RGB; keep bit depth."""
    if image.mode in ("L", "RGB", "I", "F", "I;16"):
        return image
    if image.mode.startswith("I;16"):
        return image.convert("I")
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


class _Reader(PILReader):  # type: ignore[misc]
    """Pillow's pixels in memory of their own: PyTorch warns about Pillow's, which is read-only."""

    def get_data(self, img: Any) -> tuple[Array, dict[str, Any]]:
        data, meta = super().get_data(img)
        return np.array(data), meta


class Decode(Transform):  # type: ignore[misc]
    r"""Read a file, or take an array, as a tensor (C, \\*spatial): uint8 kept, others in [0, 1].

    Rows stay rows (MONAI's reader would swap them by default), and the orientation tag of a
    camera is not applied: masks and published checkpoints go by the stored pixels.
    """

    def __init__(self, dimensions: int, *, mask: bool = False) -> None:
        self.dimensions = dimensions
        self.mask = mask
        self._load = LoadImage(
            reader=_Reader(converter=_plain_mode, reverse_indexing=False),
            dtype=None,
            ensure_channel_first=True,
        )

    def __call__(self, data: Path | str | Array) -> Tensor:
        r"""Return (C, \\*spatial)."""
        pixels: Tensor
        if isinstance(data, Path | str) and is_nifti(Path(data)):
            pixels = self._channel_first(torch.from_numpy(read_nifti(Path(data))))
            where = f"the volume '{data}'"
        elif isinstance(data, Path | str):
            try:
                pixels = self._load(data).as_tensor()
            except Exception as error:  # readers and decoders raise whatever they like
                problem = look(Path(data)).problem  # in fewer words than MONAI's
                reason = problem or why_unreadable(Path(data), error)
                raise DebrideError(f"cannot read the image '{data}': {reason}") from error
            where = f"the image '{data}'"
        else:
            pixels = self._channel_first(torch.from_numpy(np.asarray(data)))
            where = "an image array"
        if pixels.ndim != self.dimensions + 1:
            raise DebrideError(
                f"{where} has the shape {tuple(pixels.shape)} (channels first), and images with "
                f"{self.dimensions} spatial axes are expected"
            )
        if pixels.shape[0] in (2, 4):  # grey or colour with transparency
            pixels = pixels[: pixels.shape[0] - 1]
        if pixels.shape[0] not in (1, 3):
            raise DebrideError(f"{where} has {pixels.shape[0]} channels: give grey or RGB images")
        if self.mask:
            return (pixels != 0).any(dim=0, keepdim=True).to(torch.uint8)
        return pixels if pixels.dtype == torch.uint8 else _fractions(pixels, where)

    def _channel_first(self, pixels: Tensor) -> Tensor:
        if pixels.ndim == self.dimensions:
            return pixels[None]
        if pixels.ndim == self.dimensions + 1 and pixels.shape[-1] in (1, 2, 3, 4):
            return pixels.movedim(-1, 0)
        return pixels


def _fractions(pixels: Tensor, where: str) -> Tensor:
    if pixels.dtype == torch.bool:
        return pixels.float()
    if not pixels.is_floating_point():
        pixels = pixels.double() / 65535  # 16-bit, which Pillow may hand over as 32-bit
    pixels = pixels.float()
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise DebrideError(
            f"{where} has values outside its range (from {low:g} to {high:g} of 1): "
            "store it with 8 or 16 bits, or as fractions between 0 and 1"
        )
    return pixels


class Fit(Transform):  # type: ignore[misc]
    r"""Bring (C, \\*spatial) to the network's size: shorter side, centre crop, then the rest.

    Photographs are resized as Pillow and torchvision do (bilinear, antialiased), as that is what
    published checkpoints were trained behind; volumes by MONAI; masks by nearest neighbour.
    """

    def __init__(
        self,
        spatial: tuple[int, ...],
        channels: int,
        resize: int | None = None,
        crop: int | None = None,
        *,
        mask: bool = False,
    ) -> None:
        self.spatial, self.channels, self.mask = spatial, channels, mask
        self.resize, self.crop = resize, crop

    def __call__(self, data: Tensor) -> Tensor:
        r"""Return (C, \\*spatial) of the network's size, with at most its channels."""
        image = data
        if self.resize is not None:
            size = image.shape[1:]
            image = self._to(image, tuple(self.resize * side // min(size) for side in size))
        if self.crop is not None or self.resize is not None:
            box = self.spatial if self.crop is None else (self.crop,) * len(self.spatial)
            if self.crop is not None and min(image.shape[1:]) < self.crop:
                pixels = " × ".join(map(str, image.shape[1:]))
                raise DebrideError(
                    f"an image of {pixels} pixels is too small for a crop of {self.crop}: give "
                    f"resize {self.crop} or more before it, or a smaller crop"
                )
            # A copy, so that a cached crop does not hold on to the whole image.
            image = CenterSpatialCrop(box)(image).as_tensor().clone()
        image = self._to(image, self.spatial)
        return _grey(image) if self.channels == 1 and image.shape[0] == 3 else image

    def _to(self, image: Tensor, size: tuple[int, ...]) -> Tensor:
        if tuple(image.shape[1:]) == size:
            return image
        if self.mask:
            return F.interpolate(image[None], size, mode="nearest-exact")[0]
        if len(size) == 2:
            return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        pairs = list(zip(size, image.shape[1:], strict=True))
        # Averaging is antialiased by itself, and twenty times faster than a Gaussian before.
        averages = all(new <= old for new, old in pairs)
        resize = Resize(
            size,
            mode="area" if averages else "trilinear",
            anti_aliasing=not averages and any(new < old for new, old in pairs),
        )
        fitted: Tensor = resize(image.float()).as_tensor()
        if image.dtype == torch.uint8:
            fitted = fitted.round().clamp(0, 255)
        return fitted.to(image.dtype)


def _grey(image: Tensor) -> Tensor:
    """Luma of ITU-R 601, as Pillow has it; in NumPy, as small work gains nothing from threads."""
    red, green, blue = image.numpy()
    grey = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    if image.dtype == torch.uint8:
        grey = grey.round().astype(np.uint8)
    return torch.from_numpy(grey)[None]


def to_unit(images: Tensor) -> Tensor:
    """Return float32 images in [0, 1] from uint8 or float32 ones."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


class RandBatch(Randomizable, Transform):  # type: ignore[misc]
    r"""Light augmentation of a batch (B, C, \\*spatial) in [0, 1], every image by its own draw.

    Rotation by up to 10° in the last two axes, scale and shift by up to 10 and 5 %, a mirror
    image in half of the cases, gain and offset. The mask is moved with its image.

    MONAI's RandAffine takes images one by one, at about 9 ms each: several times the cost of
    training on a small image. This is the same, with MONAI's batched layer.
    """

    def randomize(self, data: int) -> None:
        """Draw the parameters for `data` images."""
        self.angle = self.R.uniform(-math.pi / 18, math.pi / 18, data)
        self.scale = self.R.uniform(0.9, 1.1, data)
        self.shift = self.R.uniform(-0.1, 0.1, (2, data))  # of half an image
        self.mirror = np.where(self.R.uniform(size=data) < 0.5, -1.0, 1.0)
        self.gain = self.R.uniform(0.9, 1.1, data)
        self.offset = self.R.uniform(-0.05, 0.05, data)

    def __call__(self, data: Tensor, mask: Tensor | None = None) -> Any:
        """Return the augmented images, or images and masks where masks are given."""
        self.randomize(len(data))
        n = data.ndim - 2
        height, width = data.shape[-2:]
        theta = np.zeros((len(data), n, n + 1))
        theta[:, range(n), range(n)] = 1.0
        cos, sin = np.cos(self.angle) * self.scale, np.sin(self.angle) * self.scale
        theta[:, -2, -3], theta[:, -2, -2] = cos, -sin * width / height * self.mirror
        theta[:, -1, -3], theta[:, -1, -2] = sin * height / width, cos * self.mirror
        theta[:, -2:, -1] = self.shift.T
        move = torch.from_numpy(theta.astype(np.float32))
        moved = self._layer("bilinear")(data, move, tuple(data.shape[2:]))
        column = (len(data), *[1] * (n + 1))
        gain, offset = (
            torch.from_numpy(each.astype(np.float32)).reshape(column)
            for each in (self.gain, self.offset)
        )
        images = (moved * gain + offset).clamp(0, 1)
        if mask is None:
            return images
        return images, self._layer("nearest")(mask.float(), move, tuple(data.shape[2:]))

    @staticmethod
    def _layer(mode: str) -> AffineTransform:
        return AffineTransform(
            normalized=True, mode=mode, padding_mode="border", align_corners=False
        )


class Normalise(Transform):  # type: ignore[misc]
    r"""Scale to [0, 1], repeat grey where three channels are wanted, take off mean, divide by std.

    Takes an image (C, \\*spatial) or a batch (B, C, \\*spatial).
    """

    def __init__(
        self, channels: int, mean: tuple[float, ...], std: tuple[float, ...], n: int
    ) -> None:
        self.channels, self.n = channels, n
        self.mean, self.std = (
            torch.tensor(each, dtype=torch.float32).reshape(-1, *[1] * n) for each in (mean, std)
        )

    def __call__(self, data: Tensor) -> Tensor:
        """Return float32 of the same shape, with all channels."""
        image = (to_unit(data) - self.mean) / self.std
        wanted = [-1] * image.ndim
        wanted[-self.n - 1] = self.channels
        return image.expand(wanted).contiguous()


class OnKeys(Transform):  # type: ignore[misc]
    """Apply transforms of single images to the entries of a record."""

    def __init__(self, **transforms: Any) -> None:
        self.transforms = transforms

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record with these entries transformed."""
        return {
            key: self.transforms[key](value) if key in self.transforms else value
            for key, value in data.items()
        }


class RandRecord(Randomizable, Transform):  # type: ignore[misc]
    """:class:`RandBatch` for one record with ``"image"`` and perhaps ``"mask"``."""

    def __init__(self) -> None:
        self.batch = RandBatch()

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandRecord:
        """Seed the draws."""
        self.batch.set_random_state(seed, state)
        super().set_random_state(seed, state)
        return self

    def randomize(self, data: Any) -> None:
        """Draw nothing: the batch transform does."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record with image and mask moved alike."""
        image = to_unit(data["image"])[None]
        if data.get("mask") is None:
            return {**data, "image": self.batch(image)[0]}
        moved, mask = self.batch(image, data["mask"][None])
        return {**data, "image": moved[0], "mask": mask[0]}
