"""The noun of this stage: `Evidence`, its JSON form, and the pictures that go beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.errors import DebrideError
from debride.evidence.calibration import Calibration
from debride.evidence.changed import Changed
from debride.evidence.explanations import Explanations
from debride.evidence.localisation import Localisation
from debride.evidence.reasons import Reasons
from debride.evidence.robustness import Robustness
from debride.evidence.speed import Latency as Latency
from debride.evidence.speed import Speed as Speed
from debride.evidence.statistics import Statistics
from debride.evidence.subgroups import Subgroups
from debride.evidence.task import Decisions
from debride.evidence.task import Performance as Performance
from debride.evidence.verdict import Verdict
from debride.files import write_atomic
from debride.models.outputs import Task as Task


class Cost(TypedDict):
    """What one network costs: parameters, MACs an image, bytes as safetensors."""

    params: int
    macs: int
    bytes: int


class PerformancePair(TypedDict):
    """Performance before and after."""

    original: Performance | None
    model: Performance


class CostPair(TypedDict):
    """Cost before and after."""

    original: Cost | None
    model: Cost


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One image with its heatmaps before and after, for the report.

    Attributes
    ----------
    index
        Position in the split.
    true, before_classes, after_classes
        Class indices; several or none only for multi-label tasks.
    before_score, after_score
        Probability that each network gives its own decision (multi-label: the target).
    target
        The class explained in both heatmaps: the original's most likely one.
    spearman, top10_overlap
        Likeness of the two heatmaps; None without an original, or if a map is constant.
    slice
        The slice shown of a volume, along the first spatial axis; None for 2-D images.
    image, before, after, mask
        (H, W) or (H, W, 3) uint8; (H, W) float32 relevance; (H, W) uint8, 1 on the lesion, None
        where no mask is known. All None until `load_samples`.
    """

    index: int
    true: tuple[int, ...]
    after_classes: tuple[int, ...]
    after_score: float
    target: int
    before_classes: tuple[int, ...] | None = None
    before_score: float | None = None
    spearman: float | None = None
    top10_overlap: float | None = None
    slice: int | None = None
    image: npt.NDArray[np.uint8] | None = None
    before: npt.NDArray[np.float32] | None = None
    after: npt.NDArray[np.float32] | None = None
    mask: npt.NDArray[np.uint8] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    @property
    def changed(self) -> bool:
        """Whether the two networks decide this image differently."""
        return self.before_classes is not None and self.before_classes != self.after_classes


_ARRAYS = ("image", "before", "after", "mask")


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured on one split, before ("original") and after ("model").

    Attributes
    ----------
    split, images
        Which images, and how many.
    task, classes
        What is decided.
    performance, cost, speed, explanations, decisions
        Plain dictionaries, see the types of this module. The last three may be None:
        speed was not asked for; there is no original to compare with.
    statistics, calibration, subgroups, changed, localisation, verdict
        Plain dictionaries, see the file of that name. None where they were not measured: there
        is no original (changed, verdict), no column (subgroups) or no mask (localisation).
    reasons, robustness
        Heatmaps before and after beside a yardstick, by explanation method; accuracy and
        heatmaps under corruptions. None if not asked for.
    samples
        Images with heatmaps for the report.
    thumbnails
        (H, W) or (H, W, 3) uint8 pictures of the images that `changed` lists; empty until
        `load_samples`.
    seed
        What the choice of explained images was drawn with.
    """

    split: str
    images: int
    task: Task
    classes: tuple[str, ...]
    performance: PerformancePair
    cost: CostPair
    speed: Speed | None = None
    explanations: Explanations | None = None
    decisions: Decisions | None = None
    statistics: Statistics | None = None
    calibration: Calibration | None = None
    subgroups: Subgroups | None = None
    changed: Changed | None = None
    localisation: Localisation | None = None
    verdict: Verdict | None = None
    reasons: dict[str, Reasons] | None = None
    robustness: Robustness | None = None
    samples: tuple[Sample, ...] = ()
    thumbnails: tuple[npt.NDArray[np.uint8], ...] = ()
    seed: int = 0
    schema_version: Literal[2] = 2

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    def to_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON types; the pictures go into `save_samples`."""
        document = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("samples", "thumbnails")
        }
        document["classes"] = list(self.classes)
        document["samples"] = [
            {
                field.name: list(value) if isinstance(value, tuple) else value
                for field in dataclasses.fields(sample)
                if field.name not in _ARRAYS
                for value in [getattr(sample, field.name)]
            }
            for sample in self.samples
        ]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evidence:
        """Read what `to_dict` gave; version 1 had fewer fields.

        Raises
        ------
        DebrideError
            When a field is missing or of the wrong kind.
        """
        if document.get("schema_version") == 1:
            document = {**document, "schema_version": 2}
        try:
            return _adapter().validate_python(dict(document))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DebrideError(
                f"the evidence does not fit at '{where}' ({first['msg']}): "
                "measure it again with debride evaluate"
            ) from None

    def save_samples(self, path: str | Path) -> None:
        """Write images and heatmaps of the samples as one safetensors file."""
        arrays = {
            f"{position}.{name}": np.ascontiguousarray(array)
            for position, sample in enumerate(self.samples)
            for name in _ARRAYS
            if (array := getattr(sample, name)) is not None
        }
        for position, thumbnail in enumerate(self.thumbnails):
            arrays[f"changed.{position}.image"] = np.ascontiguousarray(thumbnail)
        write_atomic(path, to_bytes(arrays))

    def load_samples(self, path: str | Path) -> Evidence:
        """Give this evidence with the pictures that `save_samples` wrote.

        Raises
        ------
        DebrideError
            When the file is missing, damaged, or holds pictures of another shape.
        """
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DebrideError(f"cannot read the heatmaps '{path}': {error}") from None
        for key, array in arrays.items():
            picture = key.endswith(".image")
            shape_fits = array.ndim == 2 or (picture and array.ndim == 3 and array.shape[2] == 3)
            kind = np.uint8 if picture or key.endswith(".mask") else np.float32
            if not (shape_fits and array.dtype == kind):
                raise DebrideError(
                    f"'{path}' does not hold heatmaps: '{key}' is {array.dtype} {array.shape}; "
                    "measure them again with debride evaluate"
                )
        samples = tuple(
            dataclasses.replace(
                sample, **{name: arrays.get(f"{position}.{name}") for name in _ARRAYS}
            )
            for position, sample in enumerate(self.samples)
        )
        shown = [] if self.changed is None else self.changed["shown"]
        thumbnails = [arrays.get(f"changed.{position}.image") for position in range(len(shown))]
        return dataclasses.replace(
            self,
            samples=samples,
            thumbnails=tuple(each for each in thumbnails if each is not None),
        )


def _adapter() -> TypeAdapter[Evidence]:
    return TypeAdapter(Evidence)
