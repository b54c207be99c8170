"""Everything that is looked at before the first step of work, so that nothing fails later."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, UnidentifiedImageError

from debride.data.splits import positives
from debride.errors import DebrideError
from debride.progress import track

if TYPE_CHECKING:
    from debride.data.images import ImageSource

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm"}
)
MEDICAL = (".dcm", ".nii", ".nii.gz", ".mha", ".nrrd")
_COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"})


class Look(NamedTuple):
    """What one look at an image file found: channels and size, or why it cannot be read."""

    channels: int
    spatial: tuple[int, ...]
    problem: str | None


def look(path: Path) -> Look:
    """Decode an image file as cheaply as possible, to see whether it can be read at all.

    A JPEG is decoded at an eighth of its size: all of its bytes are read, few pixels are made.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            colour = image.mode in _COLOUR
            image.draft(None, (max(width // 8, 1), max(height // 8, 1)))
            image.load()
    except Exception as error:  # decoders raise whatever they like on a broken file
        return Look(0, (0, 0), why_unreadable(path, error))
    return Look(3 if colour else 1, (height, width), None)


def why_unreadable(path: Path, error: Exception) -> str:
    """Say in one line why an image file cannot be read, without its name."""
    if path.is_dir():
        return "it is a folder"
    if not path.exists():
        return "there is no such file, or it is a link that leads nowhere"
    if is_medical(path):
        return "it is DICOM, NIfTI or alike, which this version does not read: export it as PNG"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image, or of a kind that Pillow does not know"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = reason.replace(str(path), "").strip(" '\"").splitlines()
    return lines[0] if lines else type(error).__name__


def is_medical(path: Path) -> bool:
    """Tell DICOM, NIfTI and alike by their suffix, and DICOM without one by its mark."""
    if path.name.lower().endswith(MEDICAL):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def look_at_all(paths: Sequence[Path], *, description: str = "Checking images") -> list[Look]:
    """Look at many files at once, with a progress bar."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(track(pool.map(look, paths), description, total=len(paths)))


def refuse_or_skip(
    bad: Mapping[str, str], *, skip: bool, total: int, where: str
) -> tuple[str, ...]:
    """Return the unreadable images as a list to show, or refuse the data set because of them.

    Raises
    ------
    DebrideError
        Naming the first one, unless `skip`; and always when nothing readable is left.
    """
    if bad and (not skip or len(bad) == total):
        name, reason = next(iter(bad.items()))
        others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DebrideError(
            f"cannot read the image '{name}' of '{where}': {reason}{others}; mend or remove it, "
            "or leave such images out with --skip-bad"
        )
    return tuple(f"{name}: {reason}" for name, reason in bad.items())


def check_same_classes(found: Mapping[str, Sequence[str]], where: str) -> None:
    """Refuse splits whose class folders differ.

    Raises
    ------
    DebrideError
        Naming a class that only one of the two splits has.
    """
    train = set(found["train"])
    for split, names in found.items():
        for extra, one, other in (
            (sorted(set(names) - train), split, "train"),
            (sorted(train - set(names)), "train", split),
        ):
            if extra:
                raise DebrideError(
                    f"the classes of '{where}' differ between splits: '{extra[0]}' is in "
                    f"'{one}' and not in '{other}'; every split needs the same class folders"
                )


def check_source(source: ImageSource) -> None:
    """Refuse a data set that cannot be learnt from or measured on.

    Raises
    ------
    DebrideError
        For no training images, a single class, an empty class, or a group in two splits.
    """
    if not source.splits.get("train"):
        raise DebrideError(f"'{source.name}' has no training images: put them in a split 'train'")
    if len(source.classes) < (1 if source.multilabel else 2):
        only = f": '{source.classes[0]}'" if source.classes else ""
        raise DebrideError(
            f"'{source.name}' has one class only{only}; a classifier needs at least two"
        )
    for split, records in source.splits.items():
        if not records:
            continue
        seen = {index for record in records for index in positives(record.label)}
        empty = [name for index, name in enumerate(source.classes) if index not in seen]
        # A rare finding may be absent from one part of a multi-label set, as in ChestMNIST.
        if empty and not (source.multilabel and split != "train"):
            raise DebrideError(
                f"class '{empty[0]}' of '{source.name}' has no image in the split '{split}': "
                "add some, or remove the class from every split"
            )
    _check_leakage(source)


def _check_leakage(source: ImageSource) -> None:
    home: dict[str, str] = {}
    for split, records in source.splits.items():
        for group in {record.group for record in records if record.group is not None}:
            other = home.setdefault(group, split)
            if other != split:
                raise DebrideError(
                    f"the group '{group}' of '{source.name}' is in both '{other}' and '{split}', "
                    "so the measured accuracy would be too good: move all images of a patient or "
                    "lesion into one split, or, if these ids do not mean the same patient or "
                    "lesion, rename that column"
                )
