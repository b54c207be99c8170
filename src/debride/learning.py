"""The loop in which a network learns, from labels or from another network."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.models.state import undisturbed
from debride.progress import track
from debride.resume import Best, Progress, read_progress, remove_progress, write_progress


@dataclass(frozen=True)
class EpochRecord:
    """What one pass over the training images gave.

    `metric` is validation balanced accuracy, or macro ROC AUC for a multi-label task;
    `rate` is the learning rate at the end of the epoch.
    """

    epoch: int
    loss: float
    validation_loss: float
    metric: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """The course of a training; the network holds the weights of `best_epoch`."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_metric: float


class DivergedError(DebrideError):
    """The learning has no way back: what was kept of it is of no use."""


@dataclass(frozen=True)
class Lesson:
    """What is learned.

    Attributes
    ----------
    loss : callable
        (images, labels or None) → scalar, in training mode, on the device.
    validate : callable
        () → (metric, loss) on the validation images.
    by_loss : bool
        Whether the better network is the one of lower loss; else that of the higher metric, or at
        the same metric of the lower loss.
    name : str
        What the progress bar says.
    rate_flag : str
        The setting that a network is to be given less of whose loss is not finite any more.
    """

    loss: Callable[[Tensor, Tensor | None], Tensor]
    validate: Callable[[], tuple[float, float]]
    by_loss: bool = False
    name: str = "training"
    rate_flag: str = "--lr"

    def better(self, metric: float, loss: float, best: Best) -> bool:
        """Tell whether an epoch is better than the best so far."""
        if self.by_loss:
            return not loss >= best.loss  # what was not finite before is worse
        return (metric, -loss) > (best.metric, -best.loss)


@dataclass(frozen=True)
class Course:
    """How long and how fast is learned.

    Attributes
    ----------
    epochs, steps : int
        Passes, and batches in each; fewer than there are cut a pass short.
    rate : float
        Highest learning rate.
    weight_decay : float
    patience : int
        Epochs without a better validation result after which learning ends.
    seed : int
    """

    epochs: int
    steps: int
    rate: float
    weight_decay: float
    patience: int
    seed: int


def learn(
    model: nn.Module,
    lesson: Lesson,
    data: Iterable[Any],
    course: Course,
    *,
    device: torch.device,
    settings: Mapping[str, Any],
    folder: Path | None = None,
    measured: tuple[float, float] | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
) -> TrainResult:
    """Let `model` learn in place; afterwards it holds the weights of its best epoch.

    AdamW with a linear warm-up over the first tenth of all steps and a cosine decay to zero,
    gradients clipped to norm 1, and early stopping.

    Parameters
    ----------
    model : nn.Module
    lesson : Lesson
    data : iterable
        Re-iterable batches. A loader's ``sampler.epoch`` and ``generator`` are set at every
        epoch, so that learning that is resumed sees the same images.
    course : Course
    device : torch.device
        Where to learn; the network is put back to where it is.
    settings : mapping
        Who goes on must give the same.
    folder : Path, optional
        Where the state is kept at the end of each epoch, and gone on from.
    measured : (float, float), optional
        Metric and loss before the first epoch: the network stays as it is if no epoch is better.
    on_epoch : callable
        Called with each `EpochRecord`.

    Raises
    ------
    DebrideError
        For outputs that are not finite (the state is removed then), or a folder that holds an
        unfinished training with other settings.
    """
    epochs, steps = course.epochs, course.steps
    with undisturbed(model), placed(model, device):
        groups = _parameter_groups(model, course.rate, course.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=True)
        progress = Progress.start(model, measured)
        if folder is not None:
            progress = read_progress(folder, model, optimizer, settings) or progress
        history = [EpochRecord(**record) for record in progress.history]
        best = progress.best
        bar = iter(track(range((epochs - len(history)) * steps), lesson.name))
        try:
            for epoch in range(len(history) + 1, epochs + 1):
                if epoch - 1 - best.epoch >= course.patience and best.weights:
                    break
                began = time.monotonic()
                with seeded(data, epoch - 1, course.seed, device):
                    loss = _epoch(model, lesson, data, optimizer, course, epoch - 1, bar, device)
                model.eval()
                metric, validation_loss = lesson.validate()
                if not math.isfinite(validation_loss):
                    raise DivergedError(
                        f"the outputs on validation images are not finite after epoch {epoch}: "
                        f"give a lower learning rate ({lesson.rate_flag})"
                    )
                rate = optimizer.param_groups[0]["lr"]
                seconds = time.monotonic() - began
                record = EpochRecord(epoch, loss, validation_loss, metric, rate, seconds)
                history.append(record)
                if lesson.better(metric, validation_loss, best):
                    best = best.replaced(model, epoch, metric, validation_loss)
                if folder is not None:
                    state = Progress([asdict(entry) for entry in history], best)
                    write_progress(folder, model, optimizer, settings, state)
                on_epoch(record)
        except DivergedError:
            if folder is not None:
                remove_progress(folder)
            raise
        finally:
            if isinstance(bar, Generator):
                bar.close()
        best.restore(model)
    return TrainResult(tuple(history), best.epoch, best.metric)


def _epoch(
    model: nn.Module,
    lesson: Lesson,
    data: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    course: Course,
    done: int,
    bar: Iterator[int],
    device: torch.device,
) -> float:
    """Go through the images once; return their mean loss."""
    model.train()
    losses, images = 0.0, 0
    first, total = done * course.steps, course.epochs * course.steps
    for step, batch in enumerate(islice(data, course.steps), start=first):
        next(bar, None)
        image, label = on_device(batch, device)
        if len(image) == 1 and images and has_batch_norm(model):
            continue  # it cannot learn from one image; it comes back next epoch
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * _schedule(step, total)
        loss = lesson.loss(image, label)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} at step {step + 1}: "
                f"give a lower learning rate ({lesson.rate_flag})"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses, images = losses + value * len(image), images + len(image)
    return losses / max(images, 1)


def batches_in(model: nn.Module, data: Iterable[Any]) -> int:
    """Count the batches of training images, and refuse what nothing can be learned from.

    Raises
    ------
    DebrideError
        For no images, or single images before a batch norm.
    """
    steps = len(data) if isinstance(data, Sized) else sum(1 for _ in data)
    if steps == 0:
        raise DebrideError("there are no training images")
    if has_batch_norm(model) and steps > 1 and getattr(data, "batch_size", None) == 1:
        raise DebrideError(
            "the network has batch norm, which cannot learn from one image at a time: "
            "give --batch-size 2 or more"
        )
    return steps


def has_batch_norm(model: nn.Module) -> bool:
    """Tell whether a network has batch norm."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def on_device(batch: Any, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return the images, in the layout that is fastest, and the labels of a batch."""
    images, labels = unpack(batch)
    images = images.to(device)
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, None if labels is None else labels.to(device)


def _parameter_groups(model: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    """Group parameters by their learning rate and whether they decay.

    Biases and norms do not decay. Adam's step changes the output of a layer in proportion to its
    inputs, so linear layers with more than 1024 of them (VGG's classifier) learn more slowly by
    that factor (Yang et al., Tensor Programs V, arXiv 2203.03466, table 8).
    """
    wide = {
        id(module.weight): 1024 / module.in_features
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.in_features > 1024
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (rate * wide.get(id(parameter), 1.0), decay if parameter.dim() > 1 else 0.0)
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise DebrideError("the network has no parameter that can be trained")
    return [
        {"params": members, "lr": highest, "highest": highest, "weight_decay": decays}
        for (highest, decays), members in groups.items()
    ]


def _schedule(step: int, total: int) -> float:
    """Give the share of the highest learning rate at a step, counted from 0."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


@contextlib.contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Hold the network on the device, with convolutions in the layout they are fastest in."""
    home = next(model.parameters()).device
    model.to(device)
    if all(parameter.dim() <= 4 for parameter in model.parameters()):
        model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(device=home, memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@contextlib.contextmanager
def seeded(data: Any, epoch: int, seed: int, device: torch.device) -> Iterator[None]:
    """Make dropout and the order of images a function of seed and epoch alone."""
    sampler = getattr(data, "sampler", None)
    if sampler is not None and hasattr(sampler, "epoch"):
        sampler.epoch = epoch
    seed = seed * 100_003 + epoch
    generator = getattr(data, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
