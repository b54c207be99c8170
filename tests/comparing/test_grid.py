from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from debride.comparing.cells import _settings, read_cell, result_path
from debride.comparing.grid import cells_of, read_grid
from debride.errors import DebrideError

GRID: dict[str, Any] = {
    "networks": {"a": {"model": "torchvision:resnet18", "epochs": 3}, "b": {"model": "timm:x"}},
    "data": {"one": {"data": "$PLACE/one"}, "phantom": {}},
    "criteria": {"lrp": {}, "abs": {"criterion": "lrp", "option": {"aggregate": "abs"}}},
    "budgets": [0.8, 0.4],
    "seeds": [0, 3],
    "common": {"recovery": "batchnorm"},
}


def _written(folder: Path, **changes: Any) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**GRID, **changes}, sort_keys=False))
    return path


def test_all_with_all_the_first_seed_first(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PLACE", "/scans")
    cells = cells_of(read_grid(_written(tmp_path)), tmp_path / "out")
    assert len(cells) == 16
    assert [cell.study.seed for cell in cells] == [0] * 8 + [3] * 8
    first, second = cells[:2]
    assert (first.name, second.name) == ("a-one-0/lrp", "a-one-0/abs")
    assert first.study.train is not None
    assert (first.study.train.epochs, first.study.train.data) == (3, "/scans/one")
    assert first.study.base == tmp_path / "out" / "bases" / "a-one-0"
    assert second.prune.criterion == "lrp"
    assert second.prune.option == ("aggregate=abs",)
    assert second.prune.recovery == "batchnorm"
    assert cells[-1].prune.seed == 3
    assert cells[2].prune.data == "phantom"
    assert len({cell.prune.out for cell in cells}) == 16


def test_a_cell_of_other_defaults_is_not_taken(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PLACE", "/scans")
    cell = cells_of(read_grid(_written(tmp_path)), tmp_path / "out")[0]
    stored = json.loads(json.dumps(_settings(cell)))
    assert stored["option"] == {"target": "odds", "aggregate": "square"}
    path = result_path(cell)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": stored, "points": []}))
    assert read_cell(cell) == {"settings": stored, "points": []}
    stored["option"]["aggregate"] = "abs"
    path.write_text(json.dumps({"settings": stored, "points": []}))
    with pytest.raises(DebrideError, match=r"was made with option .*'abs'.*, the grid says"):
        read_cell(cell)


def test_blocks_choose_and_name_no_cell_twice(tmp_path: Path) -> None:
    blocks = [
        {"networks": ["a"], "data": ["one"], "criteria": ["lrp"]},
        {"networks": ["a"], "data": ["one"], "seeds": [0]},
        {"networks": ["b"], "data": ["phantom"], "criteria": ["abs"], "seeds": [7]},
    ]
    cells = cells_of(read_grid(_written(tmp_path, blocks=blocks)), tmp_path)
    assert [cell.name for cell in cells] == [
        "a-one-0/lrp",
        "a-one-0/abs",
        "a-one-3/lrp",
        "b-phantom-7/abs",
    ]


def test_a_list_of_names_is_all_with_nothing_set(tmp_path: Path) -> None:
    grid = read_grid(_written(tmp_path, criteria=["lrp", "dlb_contrastive"], data=["phantom"]))
    assert {cell.prune.criterion for cell in cells_of(grid, tmp_path)} == {"lrp", "dlb_contrastive"}


def test_what_is_tuned_and_where(tmp_path: Path) -> None:
    criteria = {
        "everywhere": {"criterion": "lrp", "finetune": 1},
        "once": {"criterion": "lrp", "finetune": 2, "finetune_at": [0.4], "one_shot": True},
    }
    cells = cells_of(read_grid(_written(tmp_path, criteria=criteria)), tmp_path)
    assert cells[0].finetune_at == (0.8, 0.4)
    assert not cells[0].one_shot
    assert (cells[1].finetune_at, cells[1].one_shot, cells[1].prune.finetune) == ((0.4,), True, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": [0.4, 0.8]}, "'budgets'.*give shares under 1 that fall"),
        ({"networks": {}}, "'networks' is empty"),
        ({"criteria": ["lpr"], "blocks": [{"criteria": ["lrp"]}]}, "did you mean 'lpr'"),
        ({"data": {"a/b": {}}}, "'a/b' under 'data' becomes the name of a file"),
        ({"seeds": []}, "'seeds'"),
        ({"networcs": {}}, "no key 'networcs': did you mean 'networks'"),
        ({"seeds": 3}, r"at 'seeds': write a list, as in \[3\]"),
        ({"criteria": "lrp"}, r"at 'criteria': write a list, as in \[lrp\]"),
        ({"budgets": 0.5}, r"at 'budgets': write a list, as in \[0.5\]"),
        ({"blocks": []}, "'blocks' is empty"),
        ({"blocks": [{"networks": []}]}, "'networks' of a block is empty"),
        ({"blocks": [{"seeds": [-1]}]}, "'seeds' of a block must be numbers from 0 up"),
        ({"blocks": [{"seed": [1]}]}, "no key 'seed' in 'blocks.0': did you mean 'seeds'"),
        ({"common": {"recover": "none"}}, "no setting 'recover': did you mean 'recovery'"),
        ({"common": {"explain": 5}}, "'explain' has no part in a comparison"),
        ({"criteria": {"lrp": {"heatmap_rules": "epsilon"}}}, "set them under 'common'"),
        ({"data": {"one": {"dat": "x"}}}, "the data 'one': no setting 'dat': did you mean 'data'"),
        (
            {"networks": {k: {"model": "x"} for k in ("a", "a-b")}, "data": ["b-c", "c"]},
            "two networks and data would both be called 'a-b-c-0'",
        ),
        ({"networks": {"a": {"model": "x", "epoch": 3}}}, "network 'a'.*epoch"),
        ({"criteria": {"lrp": {"macs": 0.5}}}, "criterion 'lrp': 'macs' is set by the grid"),
        ({"criteria": {"lrp": {"recovery": "prayer"}}}, "criterion 'lrp'.*recovery"),
        ({"criteria": {"lrp": {"finetune_at": [0.8]}}}, "'finetune_at' goes with 'finetune'"),
        (
            {"criteria": {"lrp": {"finetune": 1, "finetune_at": [0.7]}}},
            "names 0.7, which is no budget",
        ),
        ({"criteria": {"lrp": {"one_shot": 3}}}, "'one_shot' is true or false"),
    ],
)
def test_a_grid_that_means_nothing(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DebrideError, match=words):
        cells_of(read_grid(_written(tmp_path, **changes)), tmp_path)


def test_files_that_are_no_grid(tmp_path: Path) -> None:
    with pytest.raises(DebrideError, match="give --grid an existing YAML file"):
        read_grid(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("networks: [")
    with pytest.raises(DebrideError, match="is not YAML"):
        read_grid(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(DebrideError, match=r"it has no 'networks': docs/comparing\.md shows"):
        read_grid(tmp_path / "empty.yaml")
    (tmp_path / "one.yaml").write_text("networks: [a]\ndata: [b]\ncriterion: [lrp]\nbudgets: [0.5]")
    with pytest.raises(DebrideError, match="no key 'criterion': did you mean 'criteria'"):
        read_grid(tmp_path / "one.yaml")
