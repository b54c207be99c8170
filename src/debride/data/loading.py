"""Batches of a split: decoded once, kept in bounded memory, augmented afresh in each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from debride.data.preprocessing import Preprocessing, raise_ours
from debride.data.splits import positives
from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.data.images import ImageSource

Batch = dict[str, Tensor]


def loader(
    source: ImageSource,
    split: str,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    shuffle: bool = False,
    augment: bool = False,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    masks: bool = False,
    cache_bytes: int = 1 << 30,
) -> DataLoader[int]:
    r"""Give the batches of a split, as often as one iterates.

    Each is a dict of plain tensors: ``"image"`` float32 (B, C, \\*spatial), ``"label"`` int64
    (B,) or float32 (B, K) when labels are multiple, ``"index"`` int64 (B,), the position in the
    split, and with `masks` ``"mask"`` float32 (B, 1, \\*spatial), zero where there is none.

    Order and augmentation depend on `seed` and on the epoch, which is counted in
    ``loader.sampler.epoch``; set that before iterating to go on where a run stopped.

    Parameters
    ----------
    indices
        Positions in the split to use; nothing: all.
    cache_bytes
        Memory for the decoded images of all splits of `source` together, whatever its size.
        The splits share it in proportion; what does not fit is read again every time.

    Raises
    ------
    DebrideError
        When there is no such split, no mask, or an image cannot be read any more.

    Examples
    --------
    >>> from debride.data import open_images
    >>> p = Preprocessing(spatial=(32, 32), channels=1, mean=(0.5,), std=(0.25,))
    >>> batch = next(iter(loader(open_images("phantom:60"), "val", p, batch_size=4)))
    >>> {name: tuple(tensor.shape) for name, tensor in batch.items()}
    {'image': (4, 1, 32, 32), 'label': (4,), 'index': (4,)}
    """
    records = source.splits.get(split, ())
    if not records:
        have = ", ".join(name for name, each in source.splits.items() if each)
        raise DebrideError(f"'{source.name}' has no split '{split}': it has {have}")
    if masks and all(record.mask is None for record in records):
        raise DebrideError(f"the split '{split}' of '{source.name}' has no masks")
    if len(preprocessing.spatial) != len(source.spatial):
        raise DebrideError(
            f"the images of '{source.name}' have {len(source.spatial)} spatial axes and the "
            f"network expects {len(preprocessing.spatial)}: give an image size that fits"
        )
    positions = _Positions(range(len(records)) if indices is None else indices)
    order = _Epochs(len(positions), shuffle=shuffle, seed=seed)
    collate = _Collate(source, split, preprocessing, masks, cache_bytes, order if augment else None)
    return DataLoader(
        positions,
        batch_size=batch_size,
        sampler=order,
        collate_fn=collate,
        # PyTorch would otherwise draw a number from the global generator at every epoch.
        generator=torch.Generator().manual_seed(seed),
    )


def sample(source: ImageSource, split: str, per_class: int, *, seed: int = 0) -> list[int]:
    """Choose up to `per_class` images of each class: their positions in the split, ascending.

    Examples
    --------
    >>> from debride.data import open_images
    >>> source = open_images("phantom:60")
    >>> sorted(source.splits["val"][i].label for i in sample(source, "val", 1))
    [0, 1, 2]
    """
    rng = np.random.default_rng(seed)
    members: list[list[int]] = [[] for _ in source.classes]
    for position, record in enumerate(source.splits[split]):
        for label in positives(record.label):
            members[label].append(position)
    chosen = {int(each) for group in members for each in rng.permutation(group)[:per_class]}
    return sorted(chosen)


class _Positions(Dataset[int]):
    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> int:
        return int(self.positions[index])


class _Epochs(Sampler[int]):
    """The order of an epoch, and which epoch it is."""

    def __init__(self, count: int, *, shuffle: bool, seed: int) -> None:
        self.count, self.shuffle, self.seed = count, shuffle, seed
        self.epoch = 0
        self.state = 0
        self.begun = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        self.begun += 1
        order = draw.permutation(self.count) if self.shuffle else np.arange(self.count)
        self.state = int(draw.integers(1 << 32))
        return iter(order.tolist())


class _Collate:
    """Positions to a batch."""

    def __init__(
        self,
        source: ImageSource,
        split: str,
        preprocessing: Preprocessing,
        masks: bool,
        cache_bytes: int,
        epochs: _Epochs | None,
    ) -> None:
        from debride.data.transforms import RandBatch

        self.source, self.records = source, source.splits[split]
        self.normalise = preprocessing.normaliser()
        self.images = _decoded(source, split, preprocessing, cache_bytes)
        self.read_mask = preprocessing.decoder(mask=True) if masks else None
        self.spatial = preprocessing.spatial
        self.epochs, self.begun = epochs, 0
        self.augment = RandBatch()

    def __call__(self, positions: list[int]) -> Batch:
        images = self._stack([self._image(position) for position in positions])
        mask = self._masks(positions) if self.read_mask is not None else None
        if self.epochs is not None:
            if self.begun != self.epochs.begun:  # an epoch may be begun again, left halfway
                self.begun = self.epochs.begun
                self.augment.set_random_state(self.epochs.state)
            moved = self.augment(images, mask)
            images, mask = moved if mask is not None else (moved, None)
        labels = [self.records[position].label for position in positions]
        kind = torch.float32 if self.source.multilabel else torch.int64
        batch = {
            "image": self.normalise(images),
            "label": torch.tensor(labels, dtype=kind),
            "index": torch.tensor(positions, dtype=torch.int64),
        }
        return batch if mask is None else {**batch, "mask": mask}

    def _image(self, position: int) -> Tensor:
        try:
            image: Tensor = self.images[position]
        except RuntimeError as error:
            raise_ours(error)
            raise
        return image

    def _stack(self, images: list[Tensor]) -> Tensor:
        from debride.data.transforms import to_unit

        channels = max(image.shape[0] for image in images)
        if any(image.dtype != torch.uint8 for image in images) or self.epochs is not None:
            images = [to_unit(image) for image in images]
        return torch.stack([image.expand(channels, *image.shape[1:]) for image in images])

    def _masks(self, positions: list[int]) -> Tensor:
        masks = []
        for position in positions:
            stored = self.source.mask(self.records[position])
            if stored is None or self.read_mask is None:
                masks.append(torch.zeros(1, *self.spatial))
                continue
            try:
                masks.append(self.read_mask(stored).float())
            except RuntimeError as error:
                raise_ours(error)
                raise
        return torch.stack(masks)


def _decoded(source: ImageSource, split: str, preprocessing: Preprocessing, limit: int) -> Any:
    """Return the split's decoded images, from the cache that all loaders of a source share."""
    from monai.data import CacheDataset

    geometry = preprocessing.model_dump(include={"spatial", "channels", "resize", "crop"})
    key = repr((geometry, limit))
    known = source._caches.get(split)
    if known is not None and known[0] == key:
        return known[1]
    records = source.splits[split]
    pixels = [source.pixels(record) for record in records]
    decode = preprocessing.decoder()
    try:
        bytes_each = decode(pixels[0]).nbytes
    except RuntimeError as error:
        raise_ours(error)
        raise
    total = sum(len(each) for each in source.splits.values())
    dataset = CacheDataset(
        pixels,
        decode,
        cache_num=int(limit * len(records) / total / bytes_each),
        runtime_cache="threads",
        copy_cache=False,
        as_contiguous=False,
        progress=False,
    )
    source._caches[split] = (key, dataset)
    return dataset
