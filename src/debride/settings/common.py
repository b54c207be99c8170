"""Which images, which network, where results go: what several commands ask alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from debride.config import Numbers, Pairs, Settings, Sizes, Words, option


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
        "(stratified, patients kept together); a folder's network keeps its own.",
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
        100,
        "Test images whose heatmaps are compared before and after; 0 for none.",
        panel="Evidence",
        metavar="INTEGER",
        ge=0,
    )
    evidence_methods: Words | None = option(
        None,
        "Explanation methods whose heatmaps are compared, comma-separated: lrp, gradcam, dlb, ig "
        "(slow) and others of debride explain; none for none.",
        panel="Evidence",
        metavar="A,B,...",
        shown="lrp, and gradcam where it can be",
    )
    yardstick: Path | None = option(
        None,
        "Folder of a second training of the original: how unlike its heatmaps are shows what an "
        "unlikeness means.",
        panel="Evidence",
        metavar="FOLDER",
        shown="input noise alone",
    )
    robustness: int = option(
        200,
        "Test images that are changed as clinics do (noise, blur, JPEG ...); 0 for none.",
        panel="Evidence",
        metavar="INTEGER",
        ge=0,
    )
    speed: bool = option(
        True, "Measure CPU latency at batch 1 and 16.", panel="Evidence", metavar=""
    )
    subgroups: Words | None = option(
        None,
        "Columns of index.csv to compare subgroups of, comma-separated; none for none.",
        panel="Evidence",
        metavar="A,B,...",
        shown="all of numbers or with 2 to 8 values",
    )
    specificity: float = option(
        0.9,
        "Specificity at which each class's sensitivity is reported.",
        panel="Evidence",
        metavar="SHARE",
        gt=0,
        lt=1,
    )
    limit: Pairs = option(
        (),
        "When a check of the verdict warns and when it fails, as in balanced_accuracy=0.02,0.05; "
        "may be repeated (docs/evidence.md has the checks).",
        panel="Evidence",
        metavar="CHECK=WARN,FAIL",
        many=True,
    )
    onnx_speed: bool = option(
        False,
        "Also export both networks and time them in onnxruntime (a minute or so).",
        panel="Evidence",
        metavar="",
    )
    heatmap_rules: str = option(
        "epsilon_gamma_box",
        "Relevance rules of LRP's heatmaps: epsilon_gamma_box, epsilon, "
        "epsilon_alpha2_beta1_flat, attnlrp and others of debride explain.",
        panel="Evidence",
        metavar="RULES",
    )
    show_names: bool = option(
        False,
        "Show file names in the report. They may identify patients.",
        panel="Evidence",
        metavar="",
    )
