"""The settings of ``debride prune``, ``apply``, ``inspect`` and ``doctor``."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from debride.config import Names, Pairs, Words, flag_of, option
from debride.settings.common import DataSettings, EvidenceSettings, NetworkSettings, OutputSettings
from debride.settings.finetuning import FinetuneSettings

describe = option
BUDGETS = ("macs", "params", "bytes", "latency", "ratio")


_RESIDUAL_WIDTH = (
    "Cut the width of residual streams too, those of transformers and ConvNeXt: what all blocks of "
    "a stage read and add to."
)


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
    residual_width: bool = option(False, _RESIDUAL_WIDTH, panel="Cutting", metavar="")
    out: Path | None = option(
        None,
        "JSON file for all of it, each group with its layers.",
        panel="Run",
        metavar="FILE",
        shown="only print",
    )

    @model_validator(mode="after")
    def _no_pixels(self) -> Self:
        if self.mean is not None:
            raise ValueError("--mean and --std change nothing that is inspected: leave them out")
        return self


class PruneSettings(
    FinetuneSettings, EvidenceSettings, OutputSettings, NetworkSettings, DataSettings
):
    """Settings of ``debride prune``."""

    criterion: str = option(
        "lrp",
        "What a channel is worth: activation, apoz, bn_scale, dlb, dlb_contrastive, fpgm, hessian, "
        "ig, lrp, magnitude, magnitude_l1, random or taylor.",
        panel="Cutting",
        metavar="NAME",
    )
    rules: str = option(
        "epsilon",
        "Relevance rules of the criterion lrp: epsilon, epsilon_plus, epsilon_plus_flat, attnlrp "
        "and others of debride explain.",
        panel="Cutting",
        metavar="RULES",
    )
    macs: float | None = option(
        None,
        "Share of the multiply-accumulates to keep.",
        panel="Budget (one of these)",
        metavar="SHARE",
        shown="0.5, where nothing else is given",
        gt=0,
        lt=1,
    )
    params: float | None = option(
        None,
        "Share of the parameters to keep.",
        panel="Budget (one of these)",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    bytes: float | None = option(
        None,
        "Share of the bytes on disk to keep.",
        panel="Budget (one of these)",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    latency: float | None = option(
        None,
        "Share of the CPU latency of one image to keep, measured beside the original.",
        panel="Budget (one of these)",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    latency_table: Path | None = option(
        None,
        "Latencies of other hardware to plan --latency by (JSON; docs/cli.md has the form).",
        panel="Budget (one of these)",
        metavar="FILE",
    )
    ratio: float | None = option(
        None,
        "Share of the channels to remove.",
        panel="Budget (one of these)",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    max_drop: float | None = option(
        None,
        "Search for the largest cut that loses no more than this of --metric on the validation "
        "images (0.01: one point).",
        panel="Search, instead of a budget",
        metavar="LOSS",
        ge=0,
        le=1,
    )
    max_drift: float | None = option(
        None,
        "The same for heatmaps: 1 − mean rank correlation with the original's, on 32 validation "
        "images. May be given beside --max-drop.",
        panel="Search, instead of a budget",
        metavar="LOSS",
        ge=0,
        le=1,
    )
    metric: str | None = option(
        None,
        "balanced_accuracy, auc or recall:CLASS.",
        panel="Search, instead of a budget",
        metavar="NAME",
        shown="balanced_accuracy; auc if an image may have several classes",
    )
    confidence: float = option(
        0.95,
        "How sure it must be that --max-drop is kept (one-sided, paired bootstrap); 0.5 takes "
        "the drop as measured.",
        panel="Search, instead of a budget",
        metavar="SHARE",
        ge=0.5,
        lt=1,
    )
    from_: Path | None = option(
        None,
        "Take another network that a finished search visited, without work done twice; all other "
        "settings are that run's.",
        panel="Search, instead of a budget",
        metavar="FOLDER",
    )
    at: float | None = option(
        None,
        "Which: the largest of at most this share of the multiply-accumulates.",
        panel="Search, instead of a budget",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    steps: int | None = option(
        None,
        "Cuts on the way (1: one shot); relevance is measured anew before each.",
        panel="Cutting",
        metavar="INTEGER",
        shown="8; in a search 3 for each halving",
        ge=1,
    )
    ranking: Literal["global", "isomorphic", "layer"] = option(
        "global",
        "Rank channels over the whole network (global), over layers of the same kinds and shapes "
        "(isomorphic) or within each layer (layer).",
        panel="Cutting",
        metavar="NAME",
    )
    normalise: Literal["share", "share_width", "share_width_rank", "rank"] | None = option(
        None,
        "How scores of layers are compared: share, share_width, share_width_rank or rank.",
        panel="Cutting",
        metavar="NAME",
        shown="each step takes the better of two",
    )
    floor: float = option(
        0.05,
        "Share of its channels that every layer keeps at least.",
        panel="Cutting",
        metavar="SHARE",
        ge=0,
        le=1,
    )
    round_to: int = option(
        1,
        "Keep multiples of this many channels, which suits the hardware: 8, for example.",
        panel="Cutting",
        metavar="INTEGER",
        ge=1,
    )
    protect: Names = option(
        (),
        "Layers whose outputs are not cut, as a name or pattern ('layer4.*'); may be repeated.",
        panel="Cutting",
        metavar="PATTERN",
        many=True,
    )
    residual_width: bool = option(False, _RESIDUAL_WIDTH, panel="Cutting", metavar="")
    reference: int = option(
        20,
        "Training images per class that the criterion sees.",
        panel="Cutting",
        metavar="INTEGER",
        ge=1,
    )
    reference_strategy: str = option(
        "random",
        "Which: random, most_confident, least_confident, clustered (medoids of the network's "
        "features), prototypical (nearest to their class's mean) or by_group (every patient).",
        panel="Cutting",
        metavar="NAME",
    )
    reference_correct: bool = option(
        False,
        "Only images that the network classifies right.",
        panel="Cutting",
        metavar="",
    )
    recovery: Literal["batchnorm", "least_squares", "mean", "none", "reconstruction"] = option(
        "reconstruction",
        "What repairs each cut, from up to 1024 training images without labels: batchnorm measures "
        "batch-norm statistics anew; mean also corrects biases; least_squares also refits the "
        "layers that lost inputs; reconstruction refits all layers, front to back, on what the cut "
        "network reads; or none. Kept where the outputs are nearer to the original's.",
        panel="Cutting",
        metavar="NAME",
    )
    force: bool = option(
        False,
        "Go on although the network is no better than chance on the validation images.",
        panel="Cutting",
        metavar="",
    )
    # the last one: a field of this name hides the function from those after it
    option: Pairs = describe(
        (),
        "Setting of the criterion, again for each: target=odds or class for lrp, n_steps=16 for "
        "ig, probes=8 for hessian, aggregate=abs, positive, signed, square or spread for those "
        "from relevance and taylor.",
        panel="Cutting",
        metavar="KEY=VALUE",
        many=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _of_the_search(cls, values: Any) -> Any:
        """Take the settings of the run that --from names."""
        if not isinstance(values, dict) or values.get("from_") is None:
            return values
        own = {"from_", "at", "trust", "force", *OutputSettings.model_fields}
        tuning = {name for name in FinetuneSettings.model_fields if name.startswith("finetune")}
        allowed = own | tuning | {*EvidenceSettings.model_fields}
        if more := [name for name in values if name not in allowed]:
            raise ValueError(
                f"{flag_of(more[0])} cannot be given with --from: it is that of the search"
            )
        stored = _searched(Path(values["from_"]), cls.model_fields.keys() - own - tuning)
        source = str(stored.get("model")).partition(":")[0]
        named = source in ("torchvision", "timm", "monai") or Path(str(stored["model"])).is_dir()
        if not named and not values.get("trust"):
            raise ValueError(
                f"'{values['from_']}' names the function {stored['model']}, which would be "
                "imported: give --trust to allow it"
            )
        return {**stored, **values}

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if (self.from_ is None) != (self.at is None):
            raise ValueError("--from and --at go together: give both or none")
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        floors = [name for name in ("max_drop", "max_drift") if getattr(self, name) is not None]
        if len(given := [*budgets, *floors[:1]]) > 1:
            raise ValueError(
                f"{flag_of(given[0])} and {flag_of(given[1])} are both given: choose one"
            )
        if self.metric is not None and not floors:
            raise ValueError("--metric is for a search: give --max-drop too")
        usual = type(self).model_fields["confidence"].default
        if self.confidence != usual and self.max_drop is None and self.from_ is None:
            raise ValueError("--confidence is for a search: give --max-drop too")
        if self.latency_table is not None and self.latency is None:
            raise ValueError("--latency-table goes with --latency: give both")
        return self


def _searched(folder: Path, known: Collection[str]) -> dict[str, Any]:
    """Read the settings of a finished search, without those that say where results go."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        stored = dict(run["settings"])
        str(stored["model"])
        searched = stored["max_drop"] is not None or stored["max_drift"] is not None
    except (OSError, ValueError, KeyError, TypeError):
        searched = False
    if not searched:
        raise ValueError(
            f"'{folder}' is not the folder of a search: give --from one that debride prune wrote "
            "with --max-drop or --max-drift"
        )
    return {name: value for name, value in stored.items() if name in known}


class ApplySettings(
    FinetuneSettings, EvidenceSettings, OutputSettings, NetworkSettings, DataSettings
):
    """Settings of ``debride apply``."""

    plan: Path = option(
        ..., "The plan to apply: its file, or a run's folder.", panel="Cutting", metavar="PLAN"
    )
    recovery: Literal["batchnorm", "least_squares", "mean", "none", "reconstruction"] = option(
        "reconstruction",
        "What repairs each cut, from up to 1024 training images without labels: batchnorm measures "
        "batch-norm statistics anew; mean also corrects biases; least_squares also refits the "
        "layers that lost inputs; reconstruction refits all layers, front to back, on what the cut "
        "network reads; or none.",
        panel="Cutting",
        metavar="NAME",
    )
    force: bool = option(
        False,
        "Go on although the network is no better than chance on the validation images.",
        panel="Cutting",
        metavar="",
    )
