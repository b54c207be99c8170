"""One pass over the images: what the networks decide, and which images are kept to be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.evidence.changed import LISTED, sureness
from debride.evidence.chosen import Candidate, Reservoir, Surest
from debride.evidence.task import Array, Labels, compare_decisions
from debride.models.outputs import Task, outputs_of, probabilities, task_of
from debride.progress import track


@dataclass(frozen=True)
class Seen:
    """What one pass over the data leaves in memory."""

    task: Task
    classes: tuple[str, ...]
    labels: Labels
    probabilities: list[Array]
    indices: list[int]
    """Position in the split of each row of labels and probabilities."""
    even: list[Candidate]
    changing: list[Candidate]
    """Drawn as evenly, for robustness."""
    changed: list[Candidate]
    """The original's surest first."""
    example: Tensor


def watch(
    networks: Sequence[nn.Module],
    data: Iterable[Any],
    task: Task | None,
    classes: Sequence[str] | None,
    split: str,
    explain: int,
    robustness: int,
    seed: int,
    place: torch.device,
) -> Seen:
    """Run the networks over the data once.

    Parameters
    ----------
    networks
        The model, or the original and the model; frozen, on `place`.
    data, task, classes, split, explain, robustness, seed
        As for `debride.evidence.evaluate`.
    place
        Where to compute.

    Raises
    ------
    DebrideError
        When there are no images or labels, labels or masks do not fit, or outputs are not finite.
    """
    names: tuple[str, ...] = () if classes is None else tuple(classes)
    labels: list[Labels] = []
    outcomes: list[list[Array]] = [[] for _ in networks]
    indices: list[int] = []
    even: Reservoir | None = None
    changing: Reservoir | None = None
    changed = Surest(LISTED)
    example: Tensor | None = None
    for batch in track(data, f"deciding the {split} images"):
        images, given = unpack(batch)
        if given is None:
            raise DebrideError(
                f"the batches of the {split} split have no labels: give (images, labels) "
                "or dicts with 'image' and 'label'"
            )
        on_device = images.to(place)
        outputs = [outputs_of(network, on_device) for network in networks]
        if example is None:
            example = images[:16].clone()
            width = outputs[-1].shape[1]
            names = names or tuple(str(k) for k in range(2 if width == 1 else width))
            task = task or task_of(width, len(names), given.ndim == 2 and given.shape[1] > 1)
            even = Reservoir(-(-explain // len(names)), seed)
            changing = Reservoir(-(-robustness // len(names)), seed + 1)
        assert task is not None
        assert even is not None
        assert changing is not None
        truth = _labels(given, task, len(names), len(images), split)
        probable = [_probabilities(output, task, len(names)) for output in outputs]
        places = _indices(batch, len(indices), len(truth))
        masks = _masks(batch, images)
        strata = truth.argmax(axis=1) if task == "multilabel" else truth
        for row, index in enumerate(places):
            mask = None if masks is None else masks[row]
            if explain > 0:
                even.offer(index, int(strata[row]), images[row], mask)
            if robustness > 0:
                changing.offer(index, int(strata[row]), images[row])
        if len(networks) == 2:
            _, differs = compare_decisions(probable[0], probable[1], truth, task)
            sure = sureness(probable[0], probable[1], task)
            for row in np.flatnonzero(differs).tolist():
                mask = None if masks is None else masks[row]
                changed.offer(places[row], float(sure[row]), images[row], mask)
        labels.append(truth)
        for some, p in zip(outcomes, probable, strict=True):
            some.append(p)
        indices.extend(places)
    if example is None or task is None or even is None or changing is None:
        raise DebrideError(f"the {split} split has no images: nothing can be measured on it")
    return Seen(
        task=task,
        classes=names,
        labels=np.concatenate(labels),
        probabilities=[np.concatenate(some) for some in outcomes],
        indices=indices,
        even=even.in_turn()[:explain],
        changing=changing.in_turn()[:robustness],
        changed=changed.in_turn(),
        example=example,
    )


def _labels(given: Tensor, task: Task, classes: int, images: int, split: str) -> Labels:
    shape = (images, classes) if task == "multilabel" else (images,)
    if given.ndim == 2 and given.shape[1] == 1 and task != "multilabel":
        given = given[:, 0]
    if tuple(given.shape) != shape:
        raise DebrideError(
            f"labels of shape {tuple(given.shape)} do not fit {images} images of a {task} task "
            f"with {classes} classes: {shape} is needed"
        )
    truth: Labels = given.detach().cpu().numpy().astype(np.int64)
    top = 1 if task == "multilabel" else classes - 1
    if truth.size and (truth.min() < 0 or truth.max() > top):
        wrong = int(truth.min()) if truth.min() < 0 else int(truth.max())
        raise DebrideError(
            f"label {wrong} in the {split} split is not within 0 and {top}: "
            "check the labels, or the number of the network's outputs"
        )
    return truth


def _probabilities(output: Tensor, task: Task, classes: int) -> Array:
    if not output.isfinite().all():
        raise DebrideError(
            "the network gives outputs that are not finite: check its weights, "
            "and the mean and std that the images are prepared with"
        )
    values: Array = probabilities(output, task).double().numpy()
    if values.shape[1] != classes:
        raise DebrideError(
            f"the network decides between {values.shape[1]} classes, but {classes} names "
            "were given: give one name for each output"
        )
    return values


def _indices(batch: Any, count: int, size: int) -> list[int]:
    """Positions in the split: as the loader gives them, else by counting."""
    given = batch.get("index") if isinstance(batch, Mapping) else None
    if isinstance(given, Tensor) and given.shape == (size,):
        return [int(index) for index in given]
    return list(range(count, count + size))


def _masks(batch: Any, images: Tensor) -> Tensor | None:
    r"""Give the masks of a batch, (B, \\*spatial), where it has some."""
    given = batch.get("mask") if isinstance(batch, Mapping) else None
    if given is None:
        return None
    shape = (len(images), *images.shape[2:])
    if isinstance(given, Tensor) and given.ndim == images.ndim and given.shape[1] == 1:
        given = given[:, 0]
    if not isinstance(given, Tensor) or given.shape != shape:
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise DebrideError(
            f"the masks of a batch are {found} and its images {tuple(images.shape)}: give one "
            "mask an image, of one channel and the same size"
        )
    return given.as_subclass(Tensor)
