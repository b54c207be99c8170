"""The settings of ``debride compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from debride.config import Settings, option


class CompareSettings(Settings):
    """Settings of ``debride compare``."""

    seed: int = option(0, "Stands in the grid, as 'seeds'.", panel="", metavar="", ge=0, le=0)
    grid: Path = option(
        ...,
        "YAML file that names networks, data, criteria, budgets and seeds; docs/comparing.md has "
        "its form.",
        panel="Comparison",
        metavar="FILE",
    )
    only: str | None = option(
        None,
        "Work on the cells whose name, NETWORK-DATA-SEED/CRITERION, fits this pattern alone.",
        panel="Comparison",
        metavar="PATTERN",
        shown="all",
    )
    collect: bool = option(
        False,
        "Work on nothing: make tables and figures of the cells that are there.",
        panel="Comparison",
        metavar="",
    )
    workers: int = option(
        1,
        "Cells worked on at once, each in a process with its part of the cores.",
        panel="Run",
        metavar="INTEGER",
        ge=1,
    )
    ray: bool = option(
        False,
        "Let Ray spread the cells, over a cluster if --ray-address names one; --out must be a "
        "folder that all its machines share.",
        panel="Run",
        metavar="",
    )
    ray_address: str | None = option(
        None,
        "Address of a Ray cluster that is there, such as auto or ray://HOST:10001.",
        panel="Run",
        metavar="ADDRESS",
        shown="a local one is started",
    )
    trust: bool = option(
        False,
        "Allow the folder of a network to name a package.module:function, which is then imported.",
        panel="Run",
        metavar="",
    )
    out: Path = option(
        ...,
        "Folder for networks, cells, tables and figures; run the same command again to go on.",
        panel="Run",
        metavar="FOLDER",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.ray_address is not None and not self.ray:
            raise ValueError("--ray-address is for --ray: give both")
        return self
