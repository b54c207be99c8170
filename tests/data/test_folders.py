from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from debride.data import open_images
from debride.errors import DebrideError


def write_index(folder: Path, lines: list[str]) -> None:
    (folder / "index.csv").write_text("\n".join(lines) + "\n")


def rows(folder: Path, group: dict[str, str] | None = None) -> list[str]:
    lines = ["split,class,file,age,patient"]
    for path in sorted(folder.glob("t*/*/*.png")):
        split, name = path.parts[-3:-1]
        owner = (group or {}).get(path.name, path.stem)
        lines.append(f"{split},{name},{path.name},40,{owner}")
    return lines


def test_opens_folder_and_takes_validation(folder: Path) -> None:
    source = open_images(str(folder), validation=0.34)
    assert source.name == "set"
    assert source.classes == ("cold", "warm")
    assert (source.channels, source.spatial) == (1, (12, 16))
    assert source.counts("train") == {"cold": 4, "warm": 4}
    assert source.counts("val") == {"cold": 2, "warm": 2}
    assert source.counts("test") == {"cold": 2, "warm": 2}
    assert "4 of 12 training images" in source.notes[0]
    every = [record.name for records in source.splits.values() for record in records]
    assert len(set(every)) == 16


def test_own_validation_is_kept(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    source = open_images(folder)
    assert source.counts("train") == {"cold": 6, "warm": 6}
    assert "test" not in source.splits
    assert source.notes == ()


def test_masks_and_index_are_matched(folder: Path) -> None:
    mask = folder / "masks" / "train" / "warm" / "train_warm_3.png"
    mask.parent.mkdir(parents=True)
    Image.new("1", (16, 12)).save(mask)
    lines = ["split,class,image_id,lesion_id,sex"]
    for path in folder.glob("t*/*/*.png"):
        lines.append(f"{path.parts[-3]},{path.parts[-2]},{path.stem},L{path.stem},f")
    write_index(folder, lines)
    source = open_images(folder)
    found = {record.name: record for each in source.splits.values() for record in each}
    record = found["train_warm_3.png"]
    assert record.mask == mask
    assert found["train_warm_2.png"].mask is None
    assert (record.group, record.columns) == ("Ltrain_warm_3", {"sex": "f"})


def test_groups_stay_together(folder: Path) -> None:
    pairs = {f"train_{c}_{n}.png": f"{c}{n // 2}" for c in ("cold", "warm") for n in range(6)}
    write_index(folder, rows(folder, pairs))
    source = open_images(folder, validation=0.34)
    owners = [{record.group for record in source.splits[split]} for split in ("train", "val")]
    assert owners[0].isdisjoint(owners[1])
    assert source.counts("val") == {"cold": 2, "warm": 2}
    assert source.splits["train"][0].columns == {"age": "40"}


def test_seed_decides_validation(folder: Path) -> None:
    def names(seed: int) -> list[str]:
        return [record.name for record in open_images(folder, seed=seed).splits["val"]]

    assert names(1) == names(1)
    assert len({tuple(names(seed)) for seed in range(8)}) > 1


def test_order_of_classes(folder: Path) -> None:
    source = open_images(folder, classes=["warm", "cold"])
    assert source.classes == ("warm", "cold")
    for record in source.splits["train"]:
        assert source.classes[record.label] in record.name  # type: ignore[index]
    with pytest.raises(DebrideError, match=r"the images have no 'hot'.*each of warm, cold once"):
        source.with_classes(["hot", "cold"])
    with pytest.raises(DebrideError, match="the network has no 'cold'"):
        source.with_classes(["warm"])


def test_fingerprint_follows_labels_and_sizes(folder: Path) -> None:
    before = open_images(folder).fingerprint()
    assert open_images(folder).fingerprint() == before
    assert open_images(folder, classes=["warm", "cold"]).fingerprint() != before
    with (folder / "train" / "warm" / "train_warm_0.png").open("ab") as file:
        file.write(b"more")
    assert open_images(folder).fingerprint() != before


def test_unreadable_images_are_named_or_skipped(folder: Path) -> None:
    broken = folder / "train" / "warm" / "train_warm_0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (folder / "train" / "cold" / "train_cold_1.png").write_text("not an image")
    with pytest.raises(
        DebrideError, match=r"'train/cold/train_cold_1.png' .*and 1 more.*--skip-bad"
    ):
        open_images(folder)
    source = open_images(folder, skip_bad=True)
    assert len(source.skipped) == 2
    assert source.skipped[1].startswith("train/warm/train_warm_0.png: ")
    assert not any("left out" in note for note in source.notes)  # reports may show notes
    assert sum(len(records) for records in source.splits.values()) == 14


def test_a_link_that_leads_nowhere_counts_as_unreadable(folder: Path) -> None:
    (folder / "train" / "cold" / "gone.png").symlink_to(folder / "elsewhere.png")
    with pytest.raises(DebrideError, match=r"cannot read the image 'train/cold/gone.png'"):
        open_images(folder)
    source = open_images(folder, skip_bad=True)
    assert len(source.skipped) == 1
    assert source.counts("train")["cold"] + source.counts("val")["cold"] == 6


def test_medical_files_without_a_suffix_are_recognised(folder: Path) -> None:
    (folder / "train" / "cold" / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    with pytest.raises(DebrideError, match=r"DICOM or NIfTI files \('IM0001'\).*as PNG"):
        open_images(folder)


def test_truncated_jpeg_is_found(folder: Path) -> None:
    path = folder / "train" / "warm" / "long.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DebrideError, match=r"long.jpg.*truncated"):
        open_images(folder)


def test_unreadable_mask_counts_as_unreadable_image(folder: Path) -> None:
    mask = folder / "masks" / "test" / "cold" / "test_cold_0.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"")
    with pytest.raises(DebrideError, match=r"test/cold/test_cold_0.png.*its mask"):
        open_images(folder)


def remove(path: Path) -> None:
    for child in path.iterdir():
        child.unlink()
    path.rmdir()


def test_missing_path() -> None:
    with pytest.raises(DebrideError, match=r"no file or folder 'nowhere'.*'phantom'"):
        open_images("nowhere")


def test_no_train_folder(folder: Path) -> None:
    with pytest.raises(DebrideError, match="is one split of a data set: give the folder above it"):
        open_images(folder / "train")
    with pytest.raises(DebrideError, match="no folder 'train'"):
        open_images(folder / "train" / "warm")


def test_one_class_only(folder: Path) -> None:
    for split in ("train", "test"):
        remove(folder / split / "warm")
    with pytest.raises(DebrideError, match="one class only: 'cold'"):
        open_images(folder)


def test_empty_class(folder: Path) -> None:
    for path in (folder / "test" / "warm").iterdir():
        path.unlink()
    with pytest.raises(DebrideError, match="warm' has no images"):
        open_images(folder)


def test_classes_differ_between_splits(folder: Path) -> None:
    (folder / "test" / "warm").rename(folder / "test" / "hot")
    with pytest.raises(DebrideError, match="'hot' is in 'test' and not in 'train'"):
        open_images(folder)


def test_medical_formats_and_segmentation_are_told_apart(folder: Path) -> None:
    for path in (folder / "train" / "warm").glob("*_0.png"):
        path.rename(path.with_suffix(".dcm"))
    with pytest.raises(DebrideError, match="DICOM or NIfTI"):
        open_images(folder)
    for path in (folder / "train" / "warm").iterdir():
        path.rename(path.with_suffix(".png"))
    (folder / "train" / "warm" / "labels.txt").write_text("x")
    assert open_images(folder).notes[0] == "1 file is no image and was left out."
    (folder / "train" / "warm").rename(folder / "train" / "images")
    (folder / "train" / "cold").rename(folder / "train" / "masks")
    with pytest.raises(DebrideError, match="segmentation"):
        open_images(folder)


def test_leaking_group_is_named(folder: Path) -> None:
    write_index(folder, rows(folder, {"train_cold_0.png": "P7", "test_warm_1.png": "P7"}))
    with pytest.raises(DebrideError, match=r"'P7' .* both 'train' and 'test'.*move all images"):
        open_images(folder)


def test_index_that_does_not_fit(folder: Path) -> None:
    write_index(folder, ["split,class,patient", "train,cold,P1"])
    with pytest.raises(DebrideError, match="no column of file names"):
        open_images(folder)
    write_index(folder, ["split,class,file", "train,cold,other.png"])
    with pytest.raises(DebrideError, match=r"no row of .*index.csv"):
        open_images(folder)
    write_index(folder, ["file,patient", "train_cold_0.png"])
    with pytest.raises(DebrideError, match=r"row 2 .* 1 fields"):
        open_images(folder)
    write_index(folder, rows(folder)[:-3])
    assert "3 of 16 images have no row in index.csv." in open_images(folder).notes


def test_groups_that_make_validation_impossible(folder: Path) -> None:
    write_index(folder, rows(folder, {f"train_warm_{n}.png": "one" for n in range(6)}))
    with pytest.raises(DebrideError, match="'warm' has 1 of the groups and needs 2; add a 'val'"):
        open_images(folder)
