"""Choose reference images with the network's help."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from debride.data.batches import check_repeatable, unpack
from debride.data.splits import positives
from debride.errors import DebrideError
from debride.models.features import last_layer, reading
from debride.models.outputs import Task, probable
from debride.models.state import undisturbed
from debride.progress import track
from debride.reference.registry import Floats, Integers, Members, strategy_of

Label = int | tuple[int, ...]


@dataclass(frozen=True)
class Chosen:
    """Which training images are the reference sample, and how they were chosen.

    Attributes
    ----------
    strategy : str
    per_class : int
        How many were asked for; a small class may have fewer.
    correct_only : bool
    indices : tuple of int
        Positions among the training images, ascending.
    """

    strategy: str
    per_class: int
    correct_only: bool
    indices: tuple[int, ...]


def choose(
    model: nn.Module,
    data: Iterable[Any],
    per_class: int = 20,
    *,
    task: Task,
    classes: Sequence[str],
    strategy: str = "random",
    correct_only: bool = False,
    labels: Sequence[Label] | None = None,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Chosen:
    """Choose up to `per_class` training images of each class.

    The network is run over the images only if the strategy asks for what it says of them.

    Parameters
    ----------
    model : nn.Module
        Comes back as it was.
    data : iterable
        Re-iterable batches of the training images, always in the same order.
    per_class : int
    task : str
        ``"multiclass"``, ``"binary"`` or ``"multilabel"``.
    classes : sequence of str
        Their names, in the order of the outputs.
    strategy : str
        ``"random"``, ``"most_confident"``, ``"least_confident"``, ``"clustered"`` (k-means
        medoids in the network's features), ``"prototypical"`` (nearest to the class's mean) or
        ``"by_group"``; dashes count as underscores.
    correct_only : bool
        Whether to take only images that the network classifies right: a multi-label one where it
        finds the class for which the image is taken.
    labels : sequence, optional
        Of each image, where they are known without reading it; those of `data` by default.
    groups : sequence of str or None, optional
        Patient, lesion or site of each image.
    seed : int
    device : str or torch.device, optional
        Where the images go; the network's own by default.

    Raises
    ------
    DebrideError
        For an unknown strategy, images without labels, or a class of which no image is right.

    Examples
    --------
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.rand(8, 1, 2, 2), torch.arange(8) % 2
    >>> found = choose(net, [(images, labels)], 1, task="multiclass", classes=("a", "b"))
    >>> sorted(i % 2 for i in found.indices)
    [0, 1]
    """
    choosing = strategy_of(strategy)
    if per_class < 1:
        raise DebrideError(f"{per_class} reference images a class: give 1 or more")
    check_repeatable(data=data)
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if labels is None:
        labels = [label for batch in data for label in _labels(batch, task)]
    seen = _Seen(model, data, task, torch.device(device))
    rng = np.random.default_rng(seed)
    held: list[list[int]] = [[] for _ in classes]
    for position, given in enumerate(labels):
        for label in positives(given):
            held[label].append(position)
    chosen: set[int] = set()
    for label, name in enumerate(classes):
        positions = np.array(held[label], dtype=np.int64)
        if correct_only and len(positions):
            positions = positions[_right(seen.probabilities, positions, label, task)]
            if not len(positions):
                raise DebrideError(
                    f"the network classifies no training image of '{name}' right: "
                    "leave --reference-correct out"
                )
        own = [None if groups is None else groups[position] for position in positions]
        if len(positions):
            places = choosing(Members(positions, label, own, seen), per_class, rng)
            chosen.update(positions[places].tolist())
    return Chosen(strategy.replace("-", "_"), per_class, correct_only, tuple(sorted(chosen)))


def _right(found: Floats, positions: Integers, label: int, task: Task) -> Any:
    if task == "multilabel":
        return found[positions, label] > 0.5
    return found[positions].argmax(1) == label


def _labels(batch: Any, task: Task) -> list[Label]:
    labels = unpack(batch)[1]
    if labels is None:
        raise DebrideError("the reference data have no labels: images are chosen class by class")
    if labels.ndim == 2 and task == "multilabel":
        return [tuple(int(flag) for flag in row) for row in labels.tolist()]
    return [int(label) for label in labels.reshape(-1).tolist()]


@dataclass(frozen=True)
class _Seen:
    """What a network says of images, looked up once."""

    model: nn.Module
    data: Iterable[Any]
    task: Task
    device: torch.device

    @property
    def probabilities(self) -> Floats:
        return self._found[0]

    @property
    def features(self) -> Floats:
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Floats, Floats]:
        outputs, features = [], []
        example = unpack(next(iter(self.data)))[0][:1].to(self.device)
        with undisturbed(self.model), torch.no_grad():
            self.model.eval()
            with reading(self.model, last_layer(self.model, example)) as read:
                for batch in track(self.data, "looking at training images"):
                    images = unpack(batch)[0].to(self.device)
                    outputs.append(probable(self.model, images, self.task))
                    features.append(read().double().cpu())
        return torch.cat(outputs).numpy(), torch.cat(features).numpy()
