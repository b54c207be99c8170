"""A CSV manifest: ``image,label,split[,mask,group,...]``, paths relative to the file."""

from __future__ import annotations

from pathlib import Path

from debride.data.files import from_files
from debride.data.images import ImageSource, Record
from debride.data.registry import OpenOptions, register_source
from debride.data.table import group_column, read_rows
from debride.errors import DebrideError

_NEEDED = ("image", "label", "split")
_SPLITS = ("train", "val", "test")


@register_source(".csv")
def open_manifest(path: str, options: OpenOptions) -> ImageSource:
    """Open a manifest.

    A label is a class name; where any row has several (``a|b``), labels are multiple, and an
    empty one means none of the classes. Classes are sorted by name, or by number if all are.
    """
    file = Path(path)
    columns, rows = read_rows(file)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise DebrideError(
            f"'{file}' has no column '{missing[0]}': a manifest needs image, label and split "
            f"(it has {', '.join(columns)})"
        )
    multilabel = any("|" in row["label"] for row in rows)
    names = [[name.strip() for name in row["label"].split("|") if name.strip()] for row in rows]
    classes = _in_order({name for each in names for name in each})
    group = group_column(columns)
    left_out = {*_NEEDED, "mask", group}
    seen: dict[Path, int] = {}
    splits: dict[str, list[Record]] = {}
    for number, (row, labels) in enumerate(zip(rows, names, strict=True), start=2):
        if row["split"] not in _SPLITS:
            raise DebrideError(
                f"row {number} of '{file}' has the split '{row['split']}': "
                "it must be train, val or test"
            )
        if not labels and not multilabel:
            raise DebrideError(f"row {number} of '{file}' has no label: name its class")
        image = _existing(file, number, row["image"])
        if image in seen:
            raise DebrideError(
                f"rows {seen[image]} and {number} of '{file}' are the same image "
                f"'{row['image']}': remove one"
            )
        seen[image] = number
        splits.setdefault(row["split"], []).append(
            Record(
                image=image,
                label=tuple(int(name in labels) for name in classes)
                if multilabel
                else classes.index(labels[0]),
                name=row["image"],
                mask=_existing(file, number, row["mask"]) if row.get("mask") else None,
                group=(row[group] or None) if group else None,
                columns={name: value for name, value in row.items() if name not in left_out},
            )
        )
    notes = [f"Images with the same '{group}' stay in one split."] if group else []
    return from_files(file.stem, classes, splits, options, multilabel=multilabel, notes=notes)


def _in_order(names: set[str]) -> tuple[str, ...]:
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _existing(manifest: Path, number: int, name: str) -> Path:
    path = manifest.parent / name
    if not name or not path.is_file():
        raise DebrideError(
            f"row {number} of '{manifest}' names the file '{name}', which is not there: "
            "paths are relative to the manifest's folder"
        )
    return path.resolve()
