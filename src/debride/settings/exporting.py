"""The settings of ``debride export``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import model_validator

from debride.config import Settings, option


class ExportSettings(Settings):
    """Settings of ``debride export``."""

    model: str = option(
        ...,
        "Folder written by train, prune or apply.",
        panel="Network",
        metavar="FOLDER",
    )
    trust: bool = option(
        False,
        "Allow the folder to name a package.module:function, which is then imported.",
        panel="Network",
        metavar="",
    )
    data: str | None = option(
        None,
        "Images to compare on, as for prune: the test images, or validation where there are none.",
        panel="Images",
        metavar="DATA",
        shown="random images",
    )
    check: int = option(
        64,
        "Images that ONNX and PyTorch are compared on.",
        panel="Images",
        metavar="INTEGER",
        ge=1,
    )
    int8: bool = option(
        False,
        "Also write NAME.int8.onnx: 8-bit integers, calibrated on training images of --data.",
        panel="Export",
        metavar="",
    )
    calibration: int = option(
        128,
        "Training images that --int8 takes the ranges of activations from.",
        panel="Export",
        metavar="INTEGER",
        ge=1,
    )
    per_channel: bool = option(
        True, "One int8 scale a channel rather than one a layer.", panel="Export", metavar=""
    )
    force: bool = option(
        False,
        "Write the file although it differs from the network by more than 1e-4 of the largest "
        "output.",
        panel="Export",
        metavar="",
    )
    out: Path = option(
        ...,
        "File to write, NAME.onnx; beside it NAME.export.json says how to use it.",
        panel="Run",
        metavar="FILE",
    )
    overwrite: bool = option(
        False, "Replace the file if it is already there.", panel="Run", metavar=""
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.out.suffix != ".onnx":
            raise ValueError(f"--out '{self.out}' must end in .onnx")
        if self.int8 and self.data is None:
            raise ValueError("--int8 is calibrated on training images: give them with --data")
        if not self.int8 and not self.per_channel:
            raise ValueError("--no-per-channel is for int8: give --int8 too")
        if not self.int8 and self.calibration != type(self).model_fields["calibration"].default:
            raise ValueError("--calibration is for int8: give --int8 too")
        return self
