"""Class folders: ``train|val|test/<class>/*``, perhaps with ``masks/`` and ``index.csv``."""

from __future__ import annotations

from pathlib import Path

from debride.data import checks
from debride.data.images import ImageSource, Record
from debride.data.registry import FOLDER, OpenOptions, register_source
from debride.data.table import Index, read_index
from debride.errors import DebrideError

SPLITS = ("train", "val", "test")


@register_source(FOLDER)
def open_folder(path: str, options: OpenOptions) -> ImageSource:
    """Open a folder of class folders.

    ``masks/<split>/<class>/<stem>.png`` holds the mask of an image, where there is one, and
    ``index.csv`` what is known about it: its group (patient or lesion) and further columns.
    """
    root = Path(path)
    found = {split: _class_files(root / split) for split in SPLITS if (root / split).is_dir()}
    if "train" not in found:
        raise DebrideError(
            f"'{root}' has no folder 'train': arrange the images as train/<class>/*, "
            "and val/<class>/* and test/<class>/* where there are such splits"
        )
    if set(found["train"]) == {"images", "masks"}:
        raise DebrideError(
            f"'{root}' holds a segmentation set (train/images, train/masks): "
            "Debride classifies, and needs train/<class>/*"
        )
    classes = tuple(sorted(found["train"]))
    checks.check_same_classes({split: list(names) for split, names in found.items()}, root.name)
    for split, names in found.items():
        _check_not_empty(root, split, names)

    index = read_index(root / "index.csv") if (root / "index.csv").is_file() else None
    files = [
        (split, name, file)
        for split, names in found.items()
        for name in classes
        for file in names[name]
        if file.suffix.lower() in checks.SUFFIXES
    ]
    looks = checks.look_at_all([file for _, _, file in files])
    bad = {
        str(file.relative_to(root)): each.problem
        for (_, _, file), each in zip(files, looks, strict=True)
        if each.problem is not None
    }
    skipped = checks.refuse_or_skip(bad, skip=options.skip_bad, total=len(files), where=root.name)
    good = [
        (*place, each) for place, each in zip(files, looks, strict=True) if each.problem is None
    ]
    masks = {split: _mask_files(root / "masks" / split) for split in found}
    records: dict[str, list[Record]] = {split: [] for split in found}
    unknown = 0
    for split, name, file, _ in good:
        inside = file.relative_to(root / split / name)
        row = index.find(split, name, inside.as_posix()) if index else None
        unknown += row is None
        group, columns = index.split_row(row) if index and row else (None, {})
        records[split].append(
            Record(
                image=file,
                label=classes.index(name),
                name=inside.as_posix(),
                mask=masks[split].get((Path(name) / inside).with_suffix("").as_posix()),
                group=group,
                columns=columns,
            )
        )
    return ImageSource(
        name=root.resolve().name,
        classes=classes,
        multilabel=False,
        splits={split: tuple(each) for split, each in records.items()},
        channels=max(each.channels for *_, each in good),
        spatial=good[0][3].spatial,
        skipped=skipped,
        notes=tuple(_notes(root, index, unknown, len(good), skipped)),
    )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    return {
        child.name: sorted(
            file for file in child.rglob("*") if file.is_file() and not file.name.startswith(".")
        )
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def _mask_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.png")
    }


def _check_not_empty(root: Path, split: str, names: dict[str, list[Path]]) -> None:
    if not names:
        raise DebrideError(
            f"'{root / split}' has no class folders: arrange the images as {split}/<class>/*"
        )
    for name, files in names.items():
        if any(file.suffix.lower() in checks.SUFFIXES for file in files):
            continue
        if any(file.name.lower().endswith(checks.MEDICAL) for file in files):
            raise DebrideError(
                f"'{root / split / name}' holds {files[0].suffix} files, which this version "
                "does not read: export the images as PNG"
            )
        raise DebrideError(
            f"'{root / split / name}' has no images: "
            "add some, or remove this class from every split"
        )


def _notes(
    root: Path, index: Index | None, unknown: int, total: int, skipped: tuple[str, ...]
) -> list[str]:
    notes = []
    if skipped:
        notes.append(f"{len(skipped)} unreadable images were left out.")
    if index is None:
        return notes
    if unknown == total:
        raise DebrideError(
            f"no row of '{root / 'index.csv'}' is for an image of this folder: its columns "
            "'split', 'class' and 'file' must spell the names as the folders do"
        )
    if unknown:
        notes.append(f"{unknown} of {total} images have no row in index.csv.")
    if index.group:
        notes.append(f"Images with the same '{index.group}' (index.csv) stay in one split.")
    return notes
