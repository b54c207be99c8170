"""Fine-tuning: a cut network learns from the one that it was cut from."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debride.data.batches import check_repeatable, unpack
from debride.errors import DebrideError
from debride.learning import (
    Course,
    EpochRecord,
    Lesson,
    batches_in,
    has_batch_norm,
    learn,
    on_device,
    placed,
    seeded,
)
from debride.models.features import last_layer, reading
from debride.models.outputs import Task, logits
from debride.models.state import undisturbed
from debride.planning.plan import PlannedGroup
from debride.recovery.distillation import (
    explained,
    feature_distance,
    relevance_distance,
    soft_divergence,
)
from debride.resume import kept_settings
from debride.training import balanced_loss, needed

Loss = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
Measure = Callable[[nn.Module], tuple[float, float]]
"""Network → (metric, distance from the original) on validation images."""

TIMED = 4
"""Batches whose time says how many fit into the minutes given; the first of them does not count."""


@dataclass(frozen=True)
class FineTuning:
    """How a cut network is trained.

    Attributes
    ----------
    epochs : int, optional
        Passes over the training images, at most; this or `minutes`.
    minutes : float, optional
        About how long to train: how many passes, or what part of one, that is, is measured first.
    rate : float
        Highest learning rate.
    temperature : float
        What the outputs of both networks are divided by before they are compared.
    labels : float
        Weight of the labels, from 0 (learn from the original alone) to 1 (from the labels alone).
    features : float
        Weight of the distance from what the original's last layer reads.
    relevance : float
        Weight of the distance from the original's heatmaps; a step takes about three times as long.

    Raises
    ------
    DebrideError
        For values that mean nothing.

    Examples
    --------
    >>> FineTuning(epochs=2).temperature
    2.0
    """

    epochs: int | None = None
    minutes: float | None = None
    rate: float = 5e-4
    temperature: float = 2.0
    labels: float = 0.0
    features: float = 0.0
    relevance: float = 0.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise DebrideError("fine-tuning takes either epochs or minutes: give one of them")
        for name, value, good, what in (
            ("epochs", self.epochs, self.epochs is None or self.epochs >= 1, "1 or more"),
            ("minutes", self.minutes, self.minutes is None or self.minutes > 0, "more than 0"),
            ("rate", self.rate, self.rate > 0, "more than 0"),
            ("temperature", self.temperature, self.temperature > 0, "more than 0"),
            ("labels", self.labels, 0 <= self.labels <= 1, "0 to 1"),
            ("features", self.features, self.features >= 0, "0 or more"),
            ("relevance", self.relevance, self.relevance >= 0, "0 or more"),
        ):
            if not good:
                raise DebrideError(f"fine-tuning with {name}={value}: give {what}")


@dataclass(frozen=True)
class FineTuned:
    """The course of a fine-tuning.

    Attributes
    ----------
    settings : FineTuning
    history : tuple of EpochRecord
    best_epoch : int
        Whose weights the network holds; 0 where none was better than before.
    before, after : float
        The validation metric.
    epochs, steps : int
        Passes that were planned, and batches in each.
    kept : bool
        False where a search's floor would have been broken, and the network is as it was before.
    """

    settings: FineTuning
    history: tuple[EpochRecord, ...]
    best_epoch: int
    before: float
    after: float
    epochs: int
    steps: int
    kept: bool = True


def finetune(
    model: nn.Module,
    original: nn.Module,
    data: Iterable[Any],
    measure: Measure,
    settings: FineTuning,
    *,
    task: Task,
    groups: Sequence[PlannedGroup] = (),
    seed: int = 0,
    device: str | torch.device | None = None,
    folder: str | Path | None = None,
    recorded: Mapping[str, Any] | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
) -> FineTuned:
    """Train a cut network in place to say what the original says; it ends with its best weights.

    The loss of a batch is (1 − labels) · T² KL(original, network) + labels · class-balanced
    cross-entropy + features · relative squared distance of what the last layer reads + relevance ·
    (1 − cosine of the heatmaps). The loop is that of `debride.learning.learn`; the best epoch is
    the one nearest to the original on the validation images, or with labels the one of the highest
    metric. Where none is better than before, the network stays as it was.

    Parameters
    ----------
    model : nn.Module
        The cut network; trained in place.
    original : nn.Module
        The network that it was cut from; comes back as it was.
    data : iterable
        Re-iterable batches of training images, shuffled and perhaps augmented. Labels are looked
        at only if `settings.labels` is above 0.
    measure : callable
        Network → (metric, distance from the original) on the validation images.
    settings : FineTuning
    task : str
        ``"multiclass"``, ``"binary"`` or ``"multilabel"``.
    groups : sequence of PlannedGroup
        What was kept of the original, to find the features that are left.
    seed : int
    device : str or torch.device, optional
        Where to train; the network's own by default.
    folder : str or Path, optional
        Where the state is kept at the end of each epoch. Work that was interrupted there goes on,
        and ends with the same weights as if it had not been.
    recorded : mapping, optional
        Further settings, kept with the state: who goes on must give the same.
    on_epoch : callable
        Called with each `EpochRecord`.

    Raises
    ------
    DebrideError
        See `debride.learning.learn`; for batches without labels where their weight is above 0.

    References
    ----------
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """
    check_repeatable(data=data)
    place = torch.device(device) if device is not None else next(model.parameters()).device
    where = None if folder is None else Path(folder)
    if next(original.parameters()).device != place:
        original = copy.deepcopy(original).to(place)
    with undisturbed(original), ExitStack() as stack:
        original.eval().requires_grad_(False)
        batches = batches_in(model, data)
        loss = _loss(original, data, settings, task, groups, place, stack)
        lesson = Lesson(
            lambda images, labels: loss(model, images, labels),
            lambda: measure(model),
            by_loss=settings.labels == 0,
            name="fine-tuning",
            rate_flag="--finetune-lr",
        )
        begun = time.monotonic()
        before = measure(model)
        validating = time.monotonic() - begun
        epochs, steps = settings.epochs or 1, batches
        if settings.minutes is not None:
            kept = (kept_settings(where) if where is not None else None) or {}
            if kept.get("minutes") == settings.minutes:
                epochs, steps = kept["epochs"], kept["steps"]
            else:
                each = _seconds(model, loss, data, seed, place)
                epochs, steps = fitting(60 * settings.minutes, batches, each, validating)
        course = Course(epochs, steps, settings.rate, 0.05, max(5, epochs // 3), seed)
        told = {
            **(recorded or {}), **asdict(settings), "task": task, "seed": seed,
            "epochs": epochs, "steps": steps,
        }  # fmt: skip
        result = learn(
            model,
            lesson,
            data,
            course,
            device=place,
            settings=json.loads(json.dumps(told)),
            folder=where,
            measured=before,
            on_epoch=on_epoch,
        )
    after = result.best_metric
    return FineTuned(settings, result.history, result.best_epoch, before[0], after, epochs, steps)


def fitting(seconds: float, batches: int, each: float, validating: float) -> tuple[int, int]:
    """Return how many epochs fit into some seconds, and how many batches each of them has.

    Parameters
    ----------
    batches : int
        Of a whole epoch.
    each, validating : float
        Seconds for a batch, and for the validation after each epoch.

    Examples
    --------
    >>> fitting(100, 10, 2.0, 5.0), fitting(15, 10, 2.0, 5.0), fitting(1, 10, 2.0, 5.0)
    ((4, 10), (1, 5), (1, 1))
    """
    whole = batches * each + validating
    if seconds >= whole:
        return int(seconds / whole), batches
    return 1, max(1, int((seconds - validating) / each))


def _loss(
    original: nn.Module,
    data: Iterable[Any],
    settings: FineTuning,
    task: Task,
    groups: Sequence[PlannedGroup],
    place: torch.device,
    stack: ExitStack,
) -> Loss:
    """Make the loss of a batch; `stack` ends the looking into the original."""
    from_labels = None
    example = unpack(next(iter(data)))[0][:1].to(place)
    if settings.labels > 0:
        with torch.no_grad():
            outputs = logits(original(example)).shape[1]
        from_labels = balanced_loss(task, _counts(data, task, outputs), data, place)
    if settings.features > 0:
        head = last_layer(original, example)
        theirs = stack.enter_context(reading(original, head))
        left = _left(groups, head)

    def loss(network: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
        if settings.relevance > 0:
            said, before = explained(original, images, differentiable=False)
            said = said.detach()
        else:
            with torch.no_grad():
                said = logits(original(images))
        with ExitStack() as looking:
            if settings.features > 0:
                own = looking.enter_context(reading(network, head))
            if settings.relevance > 0:
                outputs, now = explained(network, images, said.argmax(1), differentiable=True)
            else:
                outputs = logits(network(images))
            total = (1 - settings.labels) * soft_divergence(
                outputs, said, task, settings.temperature
            )
            if from_labels is not None:
                total = total + settings.labels * from_labels(outputs, needed(labels))
            if settings.features > 0:
                goal = theirs().detach()
                goal = goal if left is None else goal[:, left(goal.shape[1])]
                total = total + settings.features * feature_distance(own(), goal)
            if settings.relevance > 0:
                total = total + settings.relevance * relevance_distance(now, before.detach())
        return total

    return loss


def _left(groups: Sequence[PlannedGroup], layer: str) -> Callable[[int], list[int]] | None:
    """Return a function from the width of what a layer read to the places that were kept."""
    gone = {
        position
        for group in groups
        for member in group.members
        if (member.module, member.side) == (layer, "in")
        for position in member.positions(group.removed)
    }
    if not gone:
        return None
    return lambda width: [place for place in range(width) if place not in gone]


def _counts(data: Iterable[Any], task: Task, outputs: int) -> list[int]:
    """Count the training images of each class."""
    labels = torch.cat([needed(unpack(batch)[1]).cpu() for batch in data])
    if task == "multilabel":
        return [int(count) for count in labels.sum(0)]
    classes = labels.reshape(-1).long()
    return torch.bincount(classes, minlength=max(2, outputs)).tolist()


def _seconds(
    model: nn.Module, loss: Loss, data: Iterable[Any], seed: int, place: torch.device
) -> float:
    """Return what a batch takes, measured on a copy; the longest counts."""
    trial = copy.deepcopy(model).train()
    took: list[float] = []
    with placed(trial, place), seeded(data, 0, seed, place):
        optimizer = torch.optim.AdamW(trial.parameters(), lr=0.0, fused=True)
        begun = time.monotonic()
        for batch in islice(data, TIMED):
            images, labels = on_device(batch, place)
            if len(images) == 1 and took and has_batch_norm(trial):
                continue  # it has no part in learning either
            loss(trial, images, labels).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trial.parameters(), 1.0)
            optimizer.step()
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            took.append(time.monotonic() - begun)
            begun = time.monotonic()
    return max(took[1:] or took)
