"""What class folders and manifests share: records of files, each looked at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from debride.data import checks
from debride.data.images import ImageSource, Record
from debride.data.registry import OpenOptions


def from_files(
    name: str,
    classes: tuple[str, ...],
    splits: Mapping[str, Sequence[Record]],
    options: OpenOptions,
    *,
    multilabel: bool = False,
    notes: Iterable[str] = (),
) -> ImageSource:
    """Make a source of records whose images and masks are files, leaving out unreadable ones.

    Raises
    ------
    DebrideError
        At an unreadable image or mask, unless those are to be skipped.
    """
    records = [(split, record) for split, each in splits.items() for record in each]
    images = checks.look_at_all(
        [record.image for _, record in records if isinstance(record.image, Path)]
    )
    masks = [record.mask for _, record in records if isinstance(record.mask, Path)]
    bad_masks = {
        path: found.problem
        for path, found in zip(
            masks, checks.look_at_all(masks, description="Checking masks"), strict=True
        )
        if found.problem is not None
    }
    bad: dict[str, str] = {}
    kept: dict[str, list[Record]] = {split: [] for split in splits}
    good: list[checks.Look] = []
    for (split, record), found in zip(records, images, strict=True):
        problem = found.problem
        if problem is None and isinstance(record.mask, Path) and record.mask in bad_masks:
            problem = f"its mask: {bad_masks[record.mask]}"
        if problem is None:
            kept[split].append(record)
            good.append(found)
        else:
            label = "" if isinstance(record.label, tuple) else f"/{classes[record.label]}"
            bad[f"{split}{label}/{record.name}"] = problem
    skipped = checks.refuse_or_skip(bad, skip=options.skip_bad, total=len(records), where=name)
    return ImageSource(
        name=name,
        classes=classes,
        multilabel=multilabel,
        splits={split: tuple(each) for split, each in kept.items()},
        channels=max(found.channels for found in good),
        spatial=good[0].spatial,
        skipped=skipped,
        notes=tuple(notes),
    )
