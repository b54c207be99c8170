"""The settings of ``debride explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from debride.config import Pairs, Settings, Words, option
from debride.settings.common import NetworkSettings

describe = option


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
        "Instead of --data: one image, or a folder of images without labels. Volumes: .nii or "
        ".nii.gz.",
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
        ("epsilon_gamma_box",),
        "Rules of lrp, one or several: attnlrp, cplrp, dlb, epsilon, epsilon_alpha2_beta1_flat, "
        "epsilon_gamma_box (pixel bounds from the preparation), epsilon_plus, epsilon_plus_flat, "
        "or a .yaml file of your own.",
        panel="Relevance",
        metavar="A,B,...",
        shown="epsilon_gamma_box",
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
