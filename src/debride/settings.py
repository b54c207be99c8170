"""The settings of each command: a field is a flag, a key of ``--config`` and a line of --help.

The resolved settings are written into ``run.json`` beside the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from debride.config import Numbers, Pairs, Settings, Sizes, Words, option

describe = option


class DataSettings(Settings):
    """Which images."""

    data: str = option(
        ...,
        "Images: a folder with train|val|test/CLASS/*, a .csv manifest, a MedMNIST-style .npz, "
        "medmnist:NAME, or phantom (drawn, needs no file; phantom:300 draws 300).",
        panel="Images",
        metavar="DATA",
    )
    classes: Words | None = option(
        None,
        "Classes in the order of the network's outputs, comma-separated.",
        panel="Images",
        metavar="A,B,...",
        shown="order of the names",
    )
    skip_bad: bool = option(
        False,
        "Leave out images that cannot be read, and list them, instead of stopping.",
        panel="Images",
        metavar="",
    )
    validation: float = option(
        0.15,
        "Share of the training images taken for validation where there is no val split "
        "(stratified, patients kept together).",
        panel="Images",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    batch_size: int = option(64, "Images per batch.", panel="Run", metavar="INTEGER", ge=1)


class NetworkSettings(Settings):
    """Which network, and how its images are prepared."""

    model: str = option(
        ...,
        "torchvision:NAME, timm:NAME, monai:NAME, package.module:function, or a folder written "
        "by train, prune or apply.",
        panel="Network",
        metavar="MODEL",
    )
    weights: Path | None = option(
        None,
        "The network's weights: .safetensors or a PyTorch state dict (never unpickled).",
        panel="Network",
        metavar="FILE",
    )
    trust: bool = option(
        False,
        "Allow a folder to name a package.module:function, which is then imported.",
        panel="Network",
        metavar="",
    )
    image_size: Sizes | None = option(
        None,
        "What the network sees, in pixels: one number for a square (or cube), or H,W or D,H,W.",
        panel="Preparing images",
        metavar="PIXELS",
        shown="as stored, at most 224",
    )
    resize: int | None = option(
        None,
        "First scale the shorter side to this many pixels, keeping the aspect.",
        panel="Preparing images",
        metavar="PIXELS",
        shown="straight to --image-size",
        ge=1,
    )
    crop: int | None = option(
        None,
        "Then cut this many pixels a side out of the centre.",
        panel="Preparing images",
        metavar="PIXELS",
        shown="none",
        ge=1,
    )
    channels: Literal[1, 3] | None = option(
        None,
        "Channels the network takes: grey images are repeated to 3, colour turned grey for 1.",
        panel="Preparing images",
        metavar="1|3",
        shown="as the weights or the images have",
    )
    mean: Numbers | None = option(
        None,
        "Mean per channel, after scaling pixels to 0..1, comma-separated.",
        panel="Preparing images",
        metavar="M[,M,M]",
        shown="0.485,0.456,0.406 or 0.5",
    )
    std: Numbers | None = option(
        None,
        "Standard deviation per channel, after scaling pixels to 0..1.",
        panel="Preparing images",
        metavar="S[,S,S]",
        shown="0.229,0.224,0.225 or 0.5",
    )

    @model_validator(mode="before")
    @classmethod
    def _channels_as_number(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("channels") in ("1", "3"):
            values = {**values, "channels": int(values["channels"])}
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("--mean and --std go together: give both or none")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("--std must be above 0 in every channel")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"--mean has {len(self.mean)} numbers and --std has {len(self.std)}: "
                "give one per channel to both"
            )
        return self


class OutputSettings(Settings):
    """Where results go."""

    out: Path = option(
        ..., "Folder for the results; written whole or not at all.", panel="Run", metavar="FOLDER"
    )
    overwrite: bool = option(
        False, "Replace a finished run that is already in --out.", panel="Run", metavar=""
    )


class EvidenceSettings(Settings):
    """What is measured for the report."""

    explain: int = option(
        32,
        "Test images whose heatmaps are compared before and after; 0 for none.",
        panel="Evidence",
        metavar="INTEGER",
        ge=0,
    )
    speed: bool = option(
        True, "Measure CPU latency at batch 1 and 16.", panel="Evidence", metavar=""
    )
    rules: str = option(
        "epsilon",
        "Relevance rules: epsilon, epsilon_plus, epsilon_plus_flat or attnlrp.",
        panel="Relevance",
        metavar="RULES",
    )
    show_names: bool = option(
        False,
        "Show file names in the report. They may identify patients.",
        panel="Evidence",
        metavar="",
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


class PruneSettings(EvidenceSettings, OutputSettings, NetworkSettings, DataSettings):
    """Settings of ``debride prune``."""

    criterion: str = option(
        "lrp",
        "What a channel is worth: lrp, magnitude or random.",
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
    recovery: Literal["batchnorm", "none"] = option(
        "batchnorm",
        "batchnorm: after each cut, measure the batch-norm statistics anew on up to 1024 "
        "training images, without labels; or none.",
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
    recovery: Literal["batchnorm", "none"] = option(
        "batchnorm",
        "batchnorm: after the cut, measure the batch-norm statistics anew on up to 1024 "
        "training images, without labels; or none.",
        panel="Cutting",
        metavar="NAME",
    )
    force: bool = option(
        False,
        "Go on although the network is no better than chance on the validation images.",
        panel="Cutting",
        metavar="",
    )


class EvaluateSettings(EvidenceSettings, NetworkSettings, DataSettings):
    """Settings of ``debride evaluate``."""

    original: Path | None = option(
        None,
        "Folder of the network before pruning, to compare with.",
        panel="Network",
        metavar="FOLDER",
    )
    split: Literal["train", "val", "test"] = option(
        "test", "The images to measure on: train, val or test.", panel="Images", metavar="SPLIT"
    )
    out: Path | None = option(
        None,
        "Folder for evidence.json and report.html.",
        panel="Run",
        metavar="FOLDER",
        shown="only print",
    )


class ExplainSettings(NetworkSettings, Settings):
    """Settings of ``debride explain``."""

    data: str | None = option(
        None,
        "Images: as for prune (the images of --split are explained).",
        panel="Images",
        metavar="DATA",
    )
    images: Path | None = option(
        None,
        "Instead of --data: one image, or a folder of images without labels.",
        panel="Images",
        metavar="PATH",
    )
    split: Literal["train", "val", "test"] = option(
        "test", "Which images of --data: train, val or test.", panel="Images", metavar="SPLIT"
    )
    classes: Words | None = option(
        None,
        "Classes in the order of the network's outputs, comma-separated.",
        panel="Images",
        metavar="A,B,...",
        shown="order of the names",
    )
    limit: int | None = option(
        None,
        "At most this many images; of --data drawn evenly from the classes.",
        panel="Images",
        metavar="INTEGER",
        shown="16 of --data, all of --images",
        ge=1,
    )
    target: str | None = option(
        None,
        "Explain the evidence for this class: its name, or its number from 0.",
        panel="Relevance",
        metavar="CLASS",
        shown="the predicted one",
    )
    against: str | None = option(
        None,
        "Explain what speaks for the target rather than for this class: the difference of the "
        "two logits. Where this class is the predicted one, the next best is the target.",
        panel="Relevance",
        metavar="CLASS",
    )
    method: Words = option(
        ("lrp",),
        "One or several, comma-separated, side by side in each picture: lrp, dlb, "
        "dlb_contrastive, ig, gradient (or gradient_x_input), smoothgrad, gradcam, occlusion.",
        panel="Relevance",
        metavar="A,B,...",
        shown="lrp",
    )
    rules: Words = option(
        ("epsilon",),
        "Rules of lrp, one or several: attnlrp, cplrp, dlb, epsilon, epsilon_alpha2_beta1_flat, "
        "epsilon_gamma_box (pixel bounds from the preparation), epsilon_plus, epsilon_plus_flat, "
        "or a .yaml file of your own.",
        panel="Relevance",
        metavar="A,B,...",
        shown="epsilon",
    )
    memory: float | None = option(
        None,
        "GiB that a pass may take; what goes through at once is cut to fit.",
        panel="Run",
        metavar="GIB",
        shown="a quarter of what is free",
        gt=0,
    )
    check: bool = option(
        False,
        "Also account for relevance module by module (lrp and dlb), on the screen and in "
        "conservation.json and .csv; exit code 1 where over 0.001 of the output is missing.",
        panel="Relevance",
        metavar="",
    )
    check_images: int = option(
        2, "How many images --check takes.", panel="Relevance", metavar="INTEGER", ge=1
    )
    strict: bool = option(
        False,
        "Stop at an operator that has no relevance rule, instead of using its gradient.",
        panel="Relevance",
        metavar="",
    )
    raw: Literal["npy", "nifti", "none"] = option(
        "npy",
        "Relevance values beside the pictures: npy, nifti (needs nibabel) or none.",
        panel="Run",
        metavar="KIND",
    )
    show_names: bool = option(
        False,
        "Name the pictures after the image files. File names may identify patients.",
        panel="Run",
        metavar="",
    )
    out: Path = option(
        ..., "New folder for the results; written whole or not at all.", panel="Run",
        metavar="FOLDER",
    )  # fmt: skip
    # the last one: a field of this name hides the function from those after it
    option: Pairs = describe(
        (),
        "Setting of a method or rule set, again for each; it goes to all that have it: "
        "n_steps=50, n_samples=50, window=16, layer=layer3, gamma=0.1, baseline=zero "
        "(a black image; also mean, blur, or a grey of 0..1).",
        panel="Relevance",
        metavar="KEY=VALUE",
        many=True,
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.images is None):
            raise ValueError("give the images with either --data or --images")
        return self


class DemoSettings(Settings):
    """Settings of ``debride demo``."""

    out: Path = option(Path("runs/demo"), "Folder for the results.", panel="Run", metavar="FOLDER")


class ReportSettings(Settings):
    """Settings of ``debride report``."""

    show_names: bool = option(
        False,
        "Show file names, read anew from the run's images. They may identify patients.",
        panel="Evidence",
        metavar="",
    )
    run: Path = option(..., "Folder of a finished run.", panel="Run", metavar="FOLDER")
    out: Path | None = option(
        None, "File to write.", panel="Run", metavar="FILE", shown="report.html in the run's folder"
    )
