"""What is compared with what: the YAML file of a comparison, and the cells that it spans."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from debride.config import Settings, read_yaml
from debride.errors import DebrideError, hint
from debride.planning.goals import read_budgets
from debride.settings.common import DataSettings, EvidenceSettings, NetworkSettings, OutputSettings
from debride.settings.pruning import BUDGETS, PruneSettings
from debride.settings.training import TrainSettings

Named = dict[str, dict[str, Any]]
Entries = Annotated[Named, BeforeValidator(lambda value: _named(value))]
"""``{name: settings}``; a list of names is the same with nothing set."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
"""What names of files and columns are made of."""

_UNUSED = set(EvidenceSettings.model_fields) - set(Settings.model_fields) - {"heatmap_rules"}
"""Settings of ``debride prune`` that say what a report holds."""
_TAKEN = {
    *(*BUDGETS, "max_drop", "max_drift", "from_", "at", "steps", "out", "overwrite", "force"),
    *NetworkSettings.model_fields,
    *DataSettings.model_fields,
}
"""Those that the grid sets."""

OWN = ("one_shot", "finetune_at")
"""Settings of a criterion that ``debride prune`` does not have."""


class Block(BaseModel):
    """A part of the grid; what is left out means all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None
    criteria: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None


class Grid(BaseModel):
    """A comparison as its YAML file says it.

    Attributes
    ----------
    networks
        Name → settings of ``debride train``, or ``{"model": FOLDER}`` of a trained network.
    data
        Name → settings of the images; variables such as ``$DEBRIDE_DATA`` are filled in.
    criteria
        Name → settings of ``debride prune``; the name is the criterion unless one is given.
        ``one_shot: true`` cuts every budget out of the original, with its scores;
        ``finetune: 1`` trains a copy at each budget of ``finetune_at``.
    budgets
        Shares of the MACs to keep, falling: one trajectory visits them all.
    seeds
        Of training, of the reference images, and of criteria that draw.
    common
        Settings of ``debride prune`` that all criteria share.
    blocks
        Which networks, data, criteria and seeds go together; all with all by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: Entries
    data: Entries
    criteria: Entries
    budgets: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    common: dict[str, Any] = {}
    blocks: tuple[Block, ...] = (Block(),)

    @model_validator(mode="after")
    def _known(self) -> Self:
        for kind in ("networks", "data", "criteria"):
            names = getattr(self, kind)
            if not names:
                raise ValueError(f"'{kind}' is empty: name one at least")
            for name in names:
                if not NAME.fullmatch(name):
                    raise ValueError(
                        f"'{name}' under '{kind}' becomes the name of a file: write it with "
                        "letters, digits, '_', '.', '+' and '-'"
                    )
            for block in self.blocks:
                for name in getattr(block, kind) or ():
                    if name not in names:
                        raise ValueError(f"no '{name}' under '{kind}': {hint(name, names)}")
        if not self.blocks:
            raise ValueError("'blocks' is empty: leave it out, and all goes with all")
        for block in self.blocks:
            for kind, names in block:
                if names is not None and not names:
                    raise ValueError(f"'{kind}' of a block is empty: leave it out for all of them")
            if any(seed < 0 for seed in block.seeds or ()):
                raise ValueError("'seeds' of a block must be numbers from 0 up")
        if not self.seeds or any(seed < 0 for seed in self.seeds):
            raise ValueError("'seeds' must be numbers from 0 up, one at least")
        return self


@dataclass(frozen=True)
class Study:
    """A network on images, trained with one seed: what all criteria start from.

    Attributes
    ----------
    network, data : str
        Their names in the grid.
    seed : int
    train : TrainSettings or None
        How it is trained; None where it is there already.
    base : Path
        Folder of the trained network.
    """

    network: str
    data: str
    seed: int
    train: TrainSettings | None
    base: Path

    @property
    def name(self) -> str:
        """How its files are called."""
        return f"{self.network}-{self.data}-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One criterion in one study.

    Attributes
    ----------
    study : Study
    criterion : str
        Its name in the grid.
    prune : PruneSettings
    budgets : tuple of float
    written : dict
        What the grid says of its network and data, variables not filled in.
    one_shot : bool
        Cut each budget out of the original, with the original's scores.
    finetune_at : tuple of float
        Budgets at which a copy is fine-tuned.
    """

    study: Study
    criterion: str
    prune: PruneSettings
    budgets: tuple[float, ...]
    written: dict[str, Any]
    one_shot: bool = False
    finetune_at: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """How a reader knows it, and where its file lies."""
        return f"{self.study.name}/{self.criterion}"

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, as far as it makes a difference to a finished cell."""
        left_out = {*OutputSettings.model_fields, *_UNUSED}
        return {
            **self.prune.model_dump(
                mode="json", exclude={*left_out, "model", "data", "trust", "device"}
            ),
            "budgets": list(self.budgets),
            "one_shot": self.one_shot,
            "finetune_at": list(self.finetune_at),
            **self.written,
        }


def read_grid(path: Path) -> Grid:
    """Read a comparison's YAML file.

    Raises
    ------
    DebrideError
        For a file that cannot be read or says something that cannot be.
    """
    content = read_yaml(path, "--grid")
    try:
        grid = Grid.model_validate(content)
        read_budgets(grid.budgets, None)
    except ValidationError as error:
        raise DebrideError(f"'{path}': {_sentence(error)}") from None
    except DebrideError as error:
        raise DebrideError(f"'{path}' at 'budgets': {error}") from None
    return grid


def cells_of(grid: Grid, out: Path, **run: Any) -> list[Cell]:
    """Span the grid: every cell once, those of the first seed first.

    Parameters
    ----------
    out : Path
        Folder of the comparison.
    run
        Settings of the run, such as `device` and `trust`, that no cell differs in.

    Raises
    ------
    DebrideError
        For settings that ``debride train`` or ``debride prune`` would refuse.
    """
    found: dict[tuple[str, str, int, str], None] = {}
    for seed, block in itertools.product(_all_seeds(grid), grid.blocks):
        if seed in (block.seeds or grid.seeds):
            chosen = (getattr(block, k) or getattr(grid, k) for k in ("networks", "data"))
            for network, data in itertools.product(*chosen):
                for criterion in block.criteria or grid.criteria:
                    found[network, data, seed, criterion] = None
    studies: dict[tuple[str, str, int], Study] = {}
    named: dict[str, tuple[str, str, int]] = {}
    cells = []
    for network, data, seed, criterion in found:
        key = (network, data, seed)
        if key not in studies:
            studies[key] = _study(grid, out, key, run)
            if named.setdefault(studies[key].name, key) != key:
                raise DebrideError(
                    f"two networks and data would both be called '{studies[key].name}': call one "
                    "otherwise"
                )
        cells.append(_cell(grid, out, studies[key], criterion, run))
    return cells


def _all_seeds(grid: Grid) -> list[int]:
    more = itertools.chain(*(block.seeds or () for block in grid.blocks))
    return list(dict.fromkeys([*grid.seeds, *more]))


def _study(grid: Grid, out: Path, key: tuple[str, str, int], run: Mapping[str, Any]) -> Study:
    network, data, seed = key
    entry = _filled(grid.networks[network])
    folder = Path(str(entry.get("model", "")))
    if entry.get("model") and folder.is_dir():
        if more := [name for name in entry if name != "model"]:
            raise DebrideError(
                f"'{more[0]}' of the network '{network}' is stored in '{folder}': leave it out"
            )
        return Study(network, data, seed, None, folder)
    base = out / "bases" / f"{network}-{data}-{seed}"
    with within(f"the data '{data}'"):
        _check_names(grid.data[data], DataSettings.model_fields)
    told = {"explain": 0, "speed": False, **entry, **_images(grid, data), **run}
    with within(f"the network '{network}'"):
        _check_names(entry, TrainSettings.model_fields)
        train = TrainSettings.resolve({**told, "seed": seed, "out": base})
    return Study(network, data, seed, train, base)


def _cell(grid: Grid, out: Path, study: Study, criterion: str, run: Mapping[str, Any]) -> Cell:
    entry = {"criterion": criterion, **grid.common, **grid.criteria[criterion]}
    own = {name: entry.pop(name) for name in OWN if name in entry}
    tuned = any(name in entry for name in ("finetune", "finetune_minutes"))
    with within(f"the criterion '{criterion}'"):
        if "heatmap_rules" in grid.criteria[criterion]:
            raise DebrideError("'heatmap_rules' are those of all criteria: set them under 'common'")
        for name in entry:
            if name in _TAKEN:
                raise DebrideError(f"'{name}' is set by the grid: leave it out")
            if name in _UNUSED:
                raise DebrideError(f"'{name}' has no part in a comparison: leave it out")
        _check_names(entry, [name for name in PruneSettings.model_fields if name not in _TAKEN])
        places = own.get("finetune_at", grid.budgets if tuned else ())
        places = tuple(places) if isinstance(places, Sequence) else (places,)
        if places and not tuned:
            raise DebrideError("'finetune_at' goes with 'finetune': give both")
        for place in places:
            if place not in grid.budgets:
                raise DebrideError(f"'finetune_at' names {place}, which is no budget of the grid")
        images = {**_images(grid, study.data), **run}
        if study.train is not None:  # its function stands in the grid: that is the permission
            images["trust"] = True
        flags = {**entry, **images, "model": str(study.base), "seed": study.seed}
        prune = PruneSettings.resolve({**flags, "out": out / "cells" / study.name / criterion})
        if own.get("one_shot") not in (None, True, False):
            raise DebrideError("'one_shot' is true or false")
    written = {"network": grid.networks[study.network], "images": grid.data[study.data]}
    return Cell(study, criterion, prune, grid.budgets, written, bool(own.get("one_shot")), places)


def _images(grid: Grid, data: str) -> dict[str, Any]:
    """Give the settings of the images; the name is the data where none are named."""
    return {"data": data, **_filled(grid.data[data])}


def _filled(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the environment's variables."""
    return {
        name: os.path.expandvars(value) if isinstance(value, str) else value
        for name, value in entry.items()
    }


def _check_names(entry: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in entry:
        if name not in known:
            raise DebrideError(f"no setting '{name}': {hint(name, list(known))}")


def _sentence(error: ValidationError) -> str:
    """Say the first thing that is wrong with a grid."""
    # a misspelt key is missing too
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    *around, last = [str(part) for part in first["loc"]] or [""]
    where = f" in '{'.'.join(around)}'" if around else ""
    if first["type"] == "missing":
        return f"it has no '{last}'{where}: docs/comparing.md shows a whole grid"
    if first["type"] == "extra_forbidden":
        known = (Block if around else Grid).model_fields
        return f"no key '{last}'{where}: {hint(last, list(known))}"
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "tuple_type":
        reason = f"write a list, as in [{first['input']}]"
    return f"at '{'.'.join([*around, last])}': {reason}" if last else reason


def _named(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"write a list, as in [{value}], or 'name: {{settings}}' a line")
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {str(name): entry or {} for name, entry in value.items()}
    return value


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Say in which entry of the grid a setting is wrong."""
    try:
        yield
    except DebrideError as error:
        raise DebrideError(f"{where}: {error}") from None
