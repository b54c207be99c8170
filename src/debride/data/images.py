"""What a data set is: records in splits, and the one function that opens any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debride.data import checks, registry, splits
from debride.errors import DebrideError

Array = NDArray[Any]


@dataclass(frozen=True)
class Record:
    """One image, its label and what else is known about it.

    Attributes
    ----------
    image
        A file, or an index into the source's arrays.
    label
        The class index, or a 0/1 vector as long as the classes when labels are multiple.
    name
        File name inside its class folder, or ``"#index"``; kept out of reports by default.
    mask
        Where the lesion is (non-zero pixels): a file, an index, or nothing.
    group
        Patient or lesion that the image belongs to: a group never crosses splits.
    columns
        Further columns of ``index.csv`` or the manifest (age, sex, ...).
    """

    image: Path | int
    label: int | tuple[int, ...]
    name: str
    mask: Path | int | None = None
    group: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A labelled data set: records in splits, with pixels in files or in arrays.

    Attributes
    ----------
    name
        Short name: the folder's or the file's, or the specification.
    classes
        Class names in the order of the label indices.
    multilabel
        Whether an image can have several classes, or none.
    splits
        Records under ``"train"`` and ``"val"``, and ``"test"`` where there is one.
    channels
        Of the stored images: 1 (grey) or 3 (colour).
    spatial
        Of the first stored image: (H, W), or (D, H, W).
    skipped
        Unreadable images that were left out, with the reason.
    notes
        Sentences to show the user.
    drawn
        Share and seed that the validation images were drawn with; None where they were there.
    """

    name: str
    classes: tuple[str, ...]
    multilabel: bool
    splits: Mapping[str, tuple[Record, ...]]
    channels: int
    spatial: tuple[int, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drawn: tuple[float, int] | None = None
    _images: tuple[Array, ...] = field(default=(), repr=False)
    _masks: tuple[Array, ...] = field(default=(), repr=False)
    _caches: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def pixels(self, record: Record) -> Path | Array:
        r"""Return the file of an image, or its stored array, (\\*spatial) or (\\*spatial, C)."""
        return record.image if isinstance(record.image, Path) else _pick(self._images, record.image)

    def mask(self, record: Record) -> Path | Array | None:
        """Return the file or the stored array of an image's mask, or nothing."""
        if record.mask is None or isinstance(record.mask, Path):
            return record.mask
        return _pick(self._masks, record.mask)

    def counts(self, split: str) -> dict[str, int]:
        """Count the images of each class in a split (each of an image's classes counts)."""
        totals = np.zeros(len(self.classes), dtype=int)
        for record in self.splits[split]:
            totals[splits.positives(record.label)] += 1
        return dict(zip(self.classes, totals.tolist(), strict=True))

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, labels and sizes (of pixels where they are arrays)."""
        digest = hashlib.sha256(repr((self.classes, self.multilabel)).encode())
        for split in sorted(self.splits):
            for record in self.splits[split]:
                size = record.image.stat().st_size if isinstance(record.image, Path) else 0
                digest.update(repr((split, record.name, record.label, size)).encode())
        for array in self._images:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def with_classes(self, order: Sequence[str]) -> ImageSource:
        """Return the same images with the classes in the user's order.

        Raises
        ------
        DebrideError
            When `order` is not a permutation of the classes.
        """
        order = tuple(order)
        missing = [name for name in self.classes if name not in order]
        unknown = [name for name in order if name not in self.classes]
        if missing or unknown or len(set(order)) != len(order):
            what = (
                f"the images have no '{unknown[0]}'"
                if unknown
                else f"the network has no '{missing[0]}'"
                if missing
                else "a class is named twice"
            )
            raise DebrideError(
                f"the network's classes do not fit '{self.name}': {what}; give other images, or "
                f"--classes with each of {', '.join(self.classes)} once"
            )
        place = [order.index(name) for name in self.classes]
        came_from = [self.classes.index(name) for name in order]

        def relabel(label: int | tuple[int, ...]) -> int | tuple[int, ...]:
            if isinstance(label, int):
                return place[label]
            return tuple(label[old] for old in came_from)

        moved = {
            split: tuple(replace(record, label=relabel(record.label)) for record in records)
            for split, records in self.splits.items()
        }
        return replace(self, classes=order, splits=moved)


def open_images(
    spec: str | Path,
    *,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
    validation: float = 0.15,
    seed: int = 0,
) -> ImageSource:
    """Open a data set and check it: after this, every image of it can be read and every label fits.

    Parameters
    ----------
    spec
        A folder with ``train|val|test/<class>/*``, a ``.csv`` manifest, a ``.npz`` in MedMNIST
        form, ``"medmnist:NAME[@SIZE]"``, or the built-in ``"phantom[:N]"``.
    classes
        The order of the classes, where a checkpoint expects another than the alphabetical one.
    skip_bad
        Leave unreadable images out and list them, rather than stop at them.
    validation
        Share of the training images that becomes the validation split where there is none.
    seed
        Of that choice, and of the phantom's drawings.

    Raises
    ------
    DebrideError
        When the data are missing, unreadable or contradictory.

    Examples
    --------
    >>> source = open_images("phantom:60")
    >>> source.classes, source.channels, source.spatial
    (('infiltrate', 'nodule', 'normal'), 1, (64, 64))
    >>> {split: len(records) for split, records in source.splits.items()}
    {'train': 42, 'val': 9, 'test': 9}
    """
    source = registry.open_with(str(spec), registry.OpenOptions(skip_bad=skip_bad, seed=seed))
    checks.check_source(source)
    if not source.splits.get("val"):
        train, val, note = splits.take_validation(
            source.splits["train"], source.classes, validation, seed, where=source.name
        )
        parts = {"train": train, "val": val}
        if source.splits.get("test"):
            parts["test"] = source.splits["test"]
        notes = (*source.notes, note)
        source = replace(source, splits=parts, notes=notes, drawn=(validation, seed))
    return source.with_classes(classes) if classes is not None else source


def _pick(parts: tuple[Array, ...], index: int) -> Array:
    for part in parts:
        if index < len(part):
            image: Array = part[index]
            return image
        index -= len(part)
    raise IndexError(index)
