from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from debride.data import open_images
from debride.errors import DebrideError

from .pictures import save


def manifest(tmp_path: Path, lines: list[str], header: str = "image,label,split,patient") -> Path:
    for line in lines:
        save(tmp_path / line.split(",")[0], np.full((6, 8, 3), 90, dtype=np.uint8))
    path = tmp_path / "list.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8-sig")
    return path


def test_paths_labels_and_groups(tmp_path: Path) -> None:
    lines = [f"img/{n}.png,{n % 2 + 9},train,p{n}" for n in range(8)]
    source = open_images(manifest(tmp_path, [*lines, "x.png,10,val,q", "y.png,9,val,r"]))
    assert source.classes == ("9", "10")
    assert (source.channels, source.spatial) == (3, (6, 8))
    assert source.counts("train") == {"9": 4, "10": 4}
    first = source.splits["train"][0]
    assert first.image == (tmp_path / "img" / "0.png").resolve()
    assert (first.group, first.label) == ("p0", 0)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_read_too(tmp_path: Path, mark: str) -> None:
    lines = [f"{n}.png,{n % 2},train,p{n}" for n in range(8)] + ["v.png,0,val,v", "w.png,1,val,w"]
    path = manifest(tmp_path, lines)
    path.write_text(path.read_text("utf-8-sig").replace(",", mark), encoding="utf-8-sig")
    source = open_images(path)
    assert (source.classes, source.counts("train")) == (("0", "1"), {"0": 4, "1": 4})


def test_several_labels(tmp_path: Path) -> None:
    lines = ["a.png,cyst|mass,train,1", "b.png,,train,2", "c.png,mass,train,3", "d.png,cyst,val,4"]
    source = open_images(manifest(tmp_path, lines))
    assert source.multilabel
    assert source.classes == ("cyst", "mass")
    assert [record.label for record in source.splits["train"]] == [(1, 1), (0, 0), (0, 1)]
    assert source.counts("train") == {"cyst": 1, "mass": 2}
    assert source.with_classes(["mass", "cyst"]).splits["val"][0].label == (0, 1)


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["a.png,x"], "image,label", "no column 'split'"),
        (["a.png,x,training,1"], "image,label,split,patient", "row 2 .*'training'.*train, val or"),
        (["a.png,,train,1"], "image,label,split,patient", "row 2 .* no label"),
        (["a.png,x,train,1", "a.png,x,test,1"], "image,label,split,patient", "rows 2 and 3"),
        (["a.png,x,train,1"], "image,label,split,patient", "one class only"),
        (
            ["a.png,x,train,1", "b.png,y,test,2"],
            "image,label,split,patient",
            "'y' .* no image .*'train",
        ),
    ],
)
def test_refusals(tmp_path: Path, lines: list[str], header: str, message: str) -> None:
    with pytest.raises(DebrideError, match=message):
        open_images(manifest(tmp_path, lines, header))


def test_missing_file_and_empty_manifest(tmp_path: Path) -> None:
    path = manifest(tmp_path, ["a.png,x,train,1"])
    (tmp_path / "a.png").unlink()
    with pytest.raises(DebrideError, match=r"names the file 'a.png', which is not there"):
        open_images(path)
    path.write_text("image,label,split\n")
    with pytest.raises(DebrideError, match="has no rows"):
        open_images(path)
