"""The settings of ``debride train``."""

from __future__ import annotations

from debride.config import option
from debride.settings.common import DataSettings, NetworkSettings, OutputSettings


class TrainSettings(OutputSettings, NetworkSettings, DataSettings):
    """Settings of ``debride train``."""

    epochs: int = option(
        10, "Passes over the training images, at most.", panel="Training", metavar="INTEGER", ge=1
    )
    lr: float | None = option(
        None,
        "Highest learning rate (warm-up, then cosine).",
        panel="Training",
        metavar="RATE",
        shown="0.0005",
        gt=0,
    )
    explain: int = option(
        8,
        "Test images shown with their heatmap; 0 for none.",
        panel="Evidence",
        metavar="INTEGER",
        ge=0,
    )
    speed: bool = option(
        True, "Measure CPU latency at batch 1 and 16.", panel="Evidence", metavar=""
    )
