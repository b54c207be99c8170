"""The settings of ``debride prune``, ``apply``, ``inspect`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from debride.config import Words, option
from debride.settings.common import DataSettings, EvidenceSettings, NetworkSettings, OutputSettings


class DoctorSettings(NetworkSettings, DataSettings):
    """Settings of ``debride doctor``."""

    rules: str = option(
        "epsilon",
        "Relevance rules to try: epsilon, epsilon_plus, epsilon_plus_flat or attnlrp.",
        panel="Relevance",
        metavar="RULES",
    )
    steps: int = option(
        8, "Steps the time of debride prune is told for.", panel="Cutting", metavar="INTEGER", ge=1
    )


class InspectSettings(NetworkSettings):
    """Settings of ``debride inspect``."""

    data: str | None = option(
        None,
        "Images, as for prune, for their size, channels and classes; it does without.",
        panel="Images",
        metavar="DATA",
    )
    classes: Words | None = option(
        None,
        "Classes in the order of the network's outputs, comma-separated.",
        panel="Images",
        metavar="A,B,...",
        shown="of --data or --weights, else two",
    )
    out: Path | None = option(
        None,
        "JSON file for all of it, each group with its layers.",
        panel="Run",
        metavar="FILE",
        shown="only print",
    )


class PruneSettings(EvidenceSettings, OutputSettings, NetworkSettings, DataSettings):
    """Settings of ``debride prune``."""

    criterion: str = option(
        "lrp",
        "What a channel is worth: activation, apoz, bn-scale, dlb, dlb-contrastive, fpgm, hessian, "
        "ig, lrp, magnitude, magnitude-l1, random or taylor.",
        panel="Cutting",
        metavar="NAME",
    )
    macs: float | None = option(
        None,
        "Share of the multiply-accumulates to keep.",
        panel="Cutting",
        metavar="SHARE",
        shown="0.5, unless --ratio is given",
        gt=0,
        lt=1,
    )
    ratio: float | None = option(
        None,
        "Share of the channels to remove, instead of --macs.",
        panel="Cutting",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    steps: int = option(
        8,
        "Cuts on the way; relevance is measured anew before each.",
        panel="Cutting",
        metavar="INTEGER",
        ge=1,
    )
    ranking: Literal["global", "layer"] = option(
        "global",
        "Rank channels over the whole network (global) or within each layer (layer).",
        panel="Cutting",
        metavar="NAME",
    )
    floor: float = option(
        0.05,
        "Share of its channels that every layer keeps at least.",
        panel="Cutting",
        metavar="SHARE",
        ge=0,
        le=1,
    )
    reference: int = option(
        20,
        "Training images per class that the criterion sees.",
        panel="Cutting",
        metavar="INTEGER",
        ge=1,
    )
    recovery: Literal["batchnorm", "least_squares", "mean", "none"] = option(
        "batchnorm",
        "What repairs each cut, from up to 1024 training images without labels: batchnorm measures "
        "batch-norm statistics anew; mean also corrects biases; least_squares also refits the "
        "layers that lost inputs; or none.",
        panel="Cutting",
        metavar="NAME",
    )
    force: bool = option(
        False,
        "Go on although the network is no better than chance on the validation images.",
        panel="Cutting",
        metavar="",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.macs is not None and self.ratio is not None:
            raise ValueError("--macs and --ratio are both given: choose one")
        return self


class ApplySettings(EvidenceSettings, OutputSettings, NetworkSettings, DataSettings):
    """Settings of ``debride apply``."""

    plan: Path = option(..., "The plan.json to apply.", panel="Cutting", metavar="FILE")
    recovery: Literal["batchnorm", "least_squares", "mean", "none"] = option(
        "batchnorm",
        "What repairs each cut, from up to 1024 training images without labels: batchnorm measures "
        "batch-norm statistics anew; mean also corrects biases; least_squares also refits the "
        "layers that lost inputs; or none.",
        panel="Cutting",
        metavar="NAME",
    )
    force: bool = option(
        False,
        "Go on although the network is no better than chance on the validation images.",
        panel="Cutting",
        metavar="",
    )
