"""Class folders: ``train|val|test/<class>/*``, perhaps with ``masks/`` and ``index.csv``."""

from __future__ import annotations

from pathlib import Path

from debride.data import checks
from debride.data.files import from_files
from debride.data.images import ImageSource, Record
from debride.data.registry import FOLDER, OpenOptions, register_source
from debride.data.table import Index, read_index
from debride.errors import DebrideError

SPLITS = ("train", "val", "test")
_Files = dict[str, list[Path]]


@register_source(FOLDER)
def open_folder(path: str, options: OpenOptions) -> ImageSource:
    """Open a folder of class folders; folders inside a class are searched as well.

    ``masks/<split>/<class>/<stem>.png`` holds the mask of an image, where there is one, and
    ``index.csv`` what is known about it: its group (patient or lesion) and further columns.
    """
    root = Path(path).resolve()
    found = {split: _class_files(root / split) for split in SPLITS if (root / split).is_dir()}
    others = _keep_images(root, found)
    classes = tuple(found["train"])
    index = read_index(root / "index.csv") if (root / "index.csv").is_file() else None
    splits: dict[str, list[Record]] = {}
    unknown = 0
    for split, names in found.items():
        masks = _masks(root / "masks" / split)
        splits[split] = []
        for label, name in enumerate(classes):
            for file in names[name]:
                inside = file.relative_to(root / split / name)
                row = index.find(split, name, inside.as_posix()) if index else None
                unknown += row is None
                group, columns = index.split_row(row) if index and row else (None, {})
                mask = masks.get(Path(name) / inside.with_suffix(""))
                splits[split].append(Record(file, label, inside.as_posix(), mask, group, columns))
    notes = _notes(root, index, unknown, sum(map(len, splits.values()))) if index else []
    if others:
        what = (
            "1 file is no image and was"
            if others == 1
            else f"{others} files are no images and were"
        )
        notes.insert(0, f"{what} left out.")
    return from_files(root.name, classes, splits, options, notes=notes)


def _class_files(folder: Path) -> _Files:
    return {
        child.name: sorted(
            file
            for file in child.rglob("*")
            # a link that leads nowhere is an image that cannot be read
            if (file.is_file() or not file.exists()) and not file.name.startswith(".")
        )
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def _masks(folder: Path) -> dict[Path, Path]:
    return {file.relative_to(folder).with_suffix(""): file for file in folder.rglob("*.png")}


def _keep_images(root: Path, found: dict[str, _Files]) -> int:
    """Refuse what is not class folders; of what is, keep the images and count the other files."""
    if "train" not in found:
        if root.name in SPLITS and (root.parent / "train").is_dir():
            raise DebrideError(
                f"'{root}' is one split of a data set: give the folder above it, '{root.parent}'"
            )
        if (root / "model.json").is_file():
            raise DebrideError(f"'{root}' holds a network, no images: give it as --model")
        raise DebrideError(
            f"'{root}' has no folder 'train': arrange the images as train/<class>/*, "
            "and val/<class>/* and test/<class>/* where there are such splits"
        )
    if set(found["train"]) == {"images", "masks"}:
        raise DebrideError(
            f"'{root}' holds a segmentation set (train/images, train/masks): "
            "Debride classifies, and needs train/<class>/*"
        )
    for split, names in found.items():
        if not names:
            raise DebrideError(
                f"'{root / split}' has no class folders: arrange the images as {split}/<class>/*"
            )
    checks.check_same_classes({split: list(names) for split, names in found.items()}, root.name)
    left_out = 0
    for split, names in found.items():
        for name, files in names.items():
            for file in files:
                if file.suffix.lower() not in checks.SUFFIXES and checks.is_medical(file):
                    raise DebrideError(
                        f"'{root / split / name}' holds DICOM or NIfTI files ('{file.name}'), "
                        "which this version does not read: export the images as PNG"
                    )
            names[name] = [file for file in files if file.suffix.lower() in checks.SUFFIXES]
            left_out += len(files) - len(names[name])
            if not names[name]:
                raise DebrideError(
                    f"'{root / split / name}' has no images: "
                    "add some, or remove this class from every split"
                )
    return left_out


def _notes(root: Path, index: Index, unknown: int, total: int) -> list[str]:
    if unknown == total:
        raise DebrideError(
            f"no row of '{root / 'index.csv'}' is for an image of this folder: its columns "
            "'split', 'class' and 'file' must spell the names as the folders do"
        )
    notes = [f"{unknown} of {total} images have no row in index.csv."] if unknown else []
    if index.group:
        notes.append(f"Images with the same '{index.group}' (index.csv) stay in one split.")
    return notes
