"""The settings of the commands that measure and show: ``evaluate``, ``report``, ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from debride.config import Settings, option
from debride.settings.common import DataSettings, EvidenceSettings, NetworkSettings


class EvaluateSettings(EvidenceSettings, NetworkSettings, DataSettings):
    """Settings of ``debride evaluate``."""

    original: Path | None = option(
        None,
        "Folder of the network before pruning, to compare with.",
        panel="Network",
        metavar="FOLDER",
    )

    @model_validator(mode="after")
    def _beside_an_original(self) -> Self:
        if self.fail_on is not None and self.original is None:
            raise ValueError(
                "--fail-on needs --original: there is a verdict only beside the network before"
            )
        return self

    split: Literal["train", "val", "test"] = option(
        "test", "The images to measure on: train, val or test.", panel="Images", metavar="SPLIT"
    )
    fail_on: Literal["warn", "fail"] | None = option(
        None,
        "End with exit code 3 if the verdict is fail; with warn, also if it is warn.",
        panel="Evidence",
        metavar="warn|fail",
        shown="never",
    )
    out: Path | None = option(
        None,
        "Folder for evidence.json, report.html and card.md.",
        panel="Run",
        metavar="FOLDER",
        shown="only print",
    )


class ReportSettings(Settings):
    """Settings of ``debride report``."""

    show_names: bool = option(
        False,
        "Show file names, read anew from the run's images. They may identify patients.",
        panel="Evidence",
        metavar="",
    )
    runs: tuple[Path, ...] = option(
        (),
        "Folder of a finished run; several are compared on one page.",
        panel="Run",
        metavar="RUN...",
        many=True,
        positional=True,
    )
    out: Path | None = option(
        None,
        "File to write; the model card of a single run stands beside it, with the ending .md.",
        panel="Run",
        metavar="FILE",
        shown="report.html and card.md in the run's folder; comparison.html here",
    )

    @model_validator(mode="after")
    def _a_run(self) -> Self:
        if not self.runs:
            raise ValueError("give the folder of a finished run, as in debride report runs/half")
        return self


class DemoSettings(Settings):
    """Settings of ``debride demo``."""

    out: Path = option(Path("runs/demo"), "Folder for the results.", panel="Run", metavar="FOLDER")
