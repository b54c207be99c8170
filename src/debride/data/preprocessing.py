"""What is done to an image before the network sees it; stored with every network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pydantic
import torch
from torch import Tensor

from debride.data.images import Array
from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.data.images import ImageSource

LARGEST_INPUT = 1 << 27
"""Pixels or voxels of one image as the network sees it, at most: 11585² or 512³."""
LARGEST_SIDE = 1 << 15
"""Pixels that a side may be resized to."""


def check_size(spatial: tuple[int, ...]) -> None:
    """Refuse an image size that nothing could hold in memory.

    Raises
    ------
    DebrideError
        Where one image has more than 2^27 pixels.

    Examples
    --------
    >>> check_size((512, 512))
    >>> check_size((60000, 60000))
    Traceback (most recent call last):
    ...
    debride.errors.DebrideError: an image size of 60000×60000 is too large: ...
    """
    if math.prod(spatial) > LARGEST_INPUT or max(spatial) > LARGEST_SIDE:
        shown = "×".join(map(str, spatial))
        raise DebrideError(
            f"an image size of {shown} is too large: give at most "
            f"{LARGEST_INPUT / 1e6:.0f} million pixels and {LARGEST_SIDE} a side "
            "(--image-size, --resize, --crop)"
        )


class Preprocessing(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Size, channels and normalisation of a network's input.

    Attributes
    ----------
    spatial
        What the network sees, in pixels: (H, W) or (D, H, W).
    channels
        1 or 3. Grey images are repeated to 3; colour images are turned grey for 1.
    mean, std
        Of images scaled to [0, 1]: one number, or one a channel.
    resize
        Shorter side, in pixels, to resize to with the aspect kept; nothing: straight to `spatial`.
    crop
        Side, in pixels, of the centre crop that follows.

    Examples
    --------
    >>> import numpy as np
    >>> p = Preprocessing(spatial=(8, 8), channels=3, mean=(0.5,), std=(0.5,))
    >>> image = p.read(np.full((16, 20), 255, dtype=np.uint8))
    >>> tuple(image.shape), float(image.max())
    ((3, 8, 8), 1.0)
    >>> Preprocessing.model_validate_json(p.model_dump_json()) == p
    True
    """

    spatial: tuple[int, ...]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.spatial) not in (2, 3) or min(self.spatial) < 1:
            raise DebrideError(
                f"the image size {self.spatial} is not (H, W) or (D, H, W) in pixels"
            )
        check_size(self.spatial)
        if self.channels not in (1, 3):
            raise DebrideError(
                f"{self.channels} channels are not possible: give 1 (grey) or 3 (RGB)"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise DebrideError(
                    f"{name} has {len(values)} numbers for {self.channels} channels: "
                    f"give one, or {self.channels}"
                )
        if min(self.std) <= 0:
            raise DebrideError(f"std is {min(self.std):g}: it must be above 0")
        for name, side in (("resize", self.resize), ("crop", self.crop)):
            if side is not None and side < 1:
                raise DebrideError(f"{name} is {side}: it must be at least 1 pixel")
            if side is not None:
                check_size((side,) * len(self.spatial))
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise DebrideError(
                f"crop is {self.crop} and resize {self.resize}: a crop cannot be larger than "
                "what it is cut from"
            )
        return self

    def transform(self, *, augment: bool = False, seed: int = 0) -> Any:
        r"""Return the MONAI ``Compose`` from a record to the network's input.

        A record is a dict with ``"image"`` and perhaps ``"mask"``, each a file or an array;
        the image becomes (C, \\*spatial) float32 and the mask (1, \\*spatial) of 0 and 1.
        """
        from monai.transforms import Compose

        from debride.data import transforms as t

        steps = [
            t.OnKeys(image=self.decoder(), mask=self.decoder(mask=True)),
            *([t.RandRecord()] if augment else []),
            t.OnKeys(image=self.normaliser(), mask=Tensor.float),
        ]
        return Compose(steps).set_random_state(seed)

    def decoder(self, *, mask: bool = False) -> Any:
        """Return the part that is the same at every reading: decode, resize, crop."""
        from monai.transforms import Compose

        from debride.data import transforms as t

        fit = t.Fit(self.spatial, self.channels, self.resize, self.crop, mask=mask)
        return Compose([t.Decode(len(self.spatial), mask=mask), fit])

    def normaliser(self) -> Any:
        """Return the last part: scale, repeat grey, normalise; for an image or a batch."""
        from debride.data import transforms as t

        return t.Normalise(self.channels, self.mean, self.std, len(self.spatial))

    def black_and_white(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Give what the network sees of black and of white, one number a channel.

        Examples
        --------
        >>> Preprocessing(spatial=(8, 8), channels=1, mean=(0.5,), std=(0.25,)).black_and_white()
        ((-2.0,), (2.0,))
        """
        sides = [1] * len(self.spatial)
        black, white = (
            tuple(self.normaliser()(torch.full((self.channels, *sides), level)).flatten().tolist())
            for level in (0.0, 1.0)
        )
        return black, white

    def read(self, image: str | Path | Array) -> Tensor:
        r"""Read one image from a file or an array as (C, \\*spatial) float32.

        Raises
        ------
        DebrideError
            When the file is missing or damaged, or the array has another form.
        """
        if isinstance(image, str | Path) and not Path(image).is_file():
            raise DebrideError(f"no file '{image}': give an existing image")
        try:
            read: Tensor = self.transform()({"image": image})["image"]
        except RuntimeError as error:
            raise_ours(error)
            raise
        return read


def raise_ours(error: BaseException) -> None:
    """Raise the DebrideError that a MONAI ``Compose`` has wrapped, if that is what it is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DebrideError):
            raise cause from None
        cause = cause.__cause__


def measure_normalisation(
    source: ImageSource,
    spatial: tuple[int, ...],
    channels: int,
    *,
    limit: int = 512,
    seed: int = 0,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation a channel of (at most `limit`) training images.

    Examples
    --------
    >>> from debride.data import open_images
    >>> mean, std = measure_normalisation(open_images("phantom:60"), (32, 32), 1)
    >>> 0 < mean[0] < 1, 0 < std[0] < 1
    (True, True)
    """
    import numpy as np

    from debride.data.loading import loader

    neutral = Preprocessing(spatial=spatial, channels=channels, mean=(0.0,), std=(1.0,))
    total = len(source.splits["train"])
    chosen = np.random.default_rng(seed).permutation(total)[:limit]
    sums, squares, count = np.zeros(channels), np.zeros(channels), 0
    for batch in loader(source, "train", neutral, batch_size=16, indices=np.sort(chosen).tolist()):
        pixels = batch["image"].transpose(0, 1).flatten(1).double().numpy()
        sums += pixels.sum(axis=1)
        squares += (pixels**2).sum(axis=1)
        count += pixels.shape[1]
    mean = sums / count
    # An image set of one flat colour has no spread to divide by.
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())
