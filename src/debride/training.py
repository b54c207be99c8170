"""A sound baseline for those who have no checkpoint yet."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import recall_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.models.outputs import Task, logits
from debride.models.state import undisturbed
from debride.progress import track
from debride.resume import Progress, read_progress, remove_progress, write_progress

Objective = Callable[[Tensor, Tensor], Tensor]

# Twice as much reaches the same, but batch norm's running statistics cannot follow: ResNet-18 on
# 64-px blood cells stands at chance on validation images until the rate has come down.
DEFAULT_RATE = 5e-4


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


def train(
    model: nn.Module,
    train_data: Iterable[Any],
    val_data: Iterable[Any],
    *,
    task: Task,
    classes_counts: Mapping[str, int] | Sequence[int],
    epochs: int = 10,
    lr: float | None = None,
    weight_decay: float = 0.05,
    patience: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    folder: str | Path | None = None,
    recorded: Mapping[str, Any] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainResult:
    """Train `model` in place; afterwards it holds the weights of its best epoch.

    AdamW with a linear warm-up over the first tenth of all steps and a cosine decay to zero,
    gradients clipped to norm 1, a loss balanced over the classes, and early stopping on the
    validation images.

    Parameters
    ----------
    train_data, val_data
        Re-iterable batches, as ``unpack`` reads them. Labels are int64 ``(B,)``, or 0/1
        ``(B, K)`` for a multi-label task. A loader's ``sampler.epoch`` and ``generator`` are
        set at every epoch, so that a resumed training sees the same images.
    classes_counts
        Training images of each class, which the loss is balanced with.
    lr
        Highest learning rate; by default 5e-4.
    patience
        Epochs without a better validation result after which training ends; by default a third
        of `epochs`, at least 5.
    device
        Where to train; by default where the network is. It is put back there.
    folder
        Where the state is kept at the end of each epoch. A training that was interrupted there
        goes on, and ends with the same weights as if it had not been. The state stays until
        `debride.resume.remove_progress`, or a network written to the folder, takes it away.
    recorded
        Further settings, kept with the state: who goes on must give the same.

    Raises
    ------
    DebrideError
        For no images, single images before a batch norm, outputs that are not finite (the state
        is removed then), or a folder that holds an unfinished training with other settings.
    """
    counts = list(
        classes_counts.values() if isinstance(classes_counts, Mapping) else classes_counts
    )
    if epochs < 1:
        raise DebrideError(f"cannot train for {epochs} epochs: give at least 1")
    steps = len(train_data) if isinstance(train_data, Sized) else sum(1 for _ in train_data)
    if steps == 0:
        raise DebrideError("there are no training images")
    home = next(model.parameters()).device
    device = torch.device(device) if device is not None else home
    rate = DEFAULT_RATE if lr is None else lr
    batch_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if batch_norm and steps > 1 and getattr(train_data, "batch_size", None) == 1:
        raise DebrideError(
            "the network has batch norm, which cannot learn from one image at a time: "
            "give --batch-size 2 or more"
        )
    settings = {
        **(recorded or {}),
        "epochs": epochs,
        "lr": rate,
        "weight_decay": weight_decay,
        "task": task,
        "seed": seed,
        "steps": steps,
        "counts": counts,
    }
    run = _Run(model, task, _objective(task, counts, train_data, device), device, batch_norm)
    with undisturbed(model), _placed(model, device):
        optimizer = torch.optim.AdamW(_parameter_groups(model, rate, weight_decay), fused=True)
        progress = Progress.start(model)
        if folder is not None:
            progress = read_progress(Path(folder), model, optimizer, settings) or progress
        history = [EpochRecord(**record) for record in progress.history]
        best = progress.best
        limit = patience if patience is not None else max(5, epochs // 3)
        bar = iter(track(range((epochs - len(history)) * steps), "training"))
        try:
            for epoch in range(len(history) + 1, epochs + 1):
                if epoch - 1 - best.epoch >= limit and best.epoch > 0:
                    break
                began = time.monotonic()
                with _seeded(train_data, epoch - 1, seed, device):
                    loss = run.epoch(
                        train_data, optimizer, bar, (epoch - 1) * steps, epochs * steps
                    )
                metric, validation_loss = run.validate(val_data, epoch)
                record = EpochRecord(
                    epoch,
                    loss,
                    validation_loss,
                    metric,
                    optimizer.param_groups[0]["lr"],
                    time.monotonic() - began,
                )
                history.append(record)
                if (metric, -validation_loss) > (best.metric, -best.loss):
                    best = best.replaced(model, epoch, metric, validation_loss)
                if folder is not None:
                    state = Progress([asdict(entry) for entry in history], best)
                    write_progress(Path(folder), model, optimizer, settings, state)
                if on_epoch is not None:
                    on_epoch(record)
        except _DivergedError:
            if folder is not None:
                remove_progress(Path(folder))
            raise
        finally:
            if isinstance(bar, Generator):
                bar.close()
        best.restore(model)
    return TrainResult(tuple(history), best.epoch, best.metric)


class _DivergedError(DebrideError):
    """The training has no way back: what was kept of it is of no use."""


@dataclass(frozen=True)
class _Run:
    """What stays the same from epoch to epoch."""

    model: nn.Module
    task: Task
    objective: Objective
    device: torch.device
    batch_norm: bool

    def epoch(
        self,
        data: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        bar: Iterator[int],
        first: int,
        total: int,
    ) -> float:
        self.model.train()
        losses, images = 0.0, 0
        for step, batch in enumerate(data, start=first):
            next(bar, None)
            image, label = self._batch(batch)
            if len(image) == 1 and images and self.batch_norm:
                continue  # it cannot learn from one image; it comes back next epoch
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * _schedule(step, total)
            loss = self.objective(logits(self.model(image)), label)
            value = loss.item()
            if not math.isfinite(value):
                raise _DivergedError(
                    f"the training loss became {value} at step {step + 1}: "
                    "give a lower learning rate (--lr)"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            losses, images = losses + value * len(image), images + len(image)
        return losses / max(images, 1)

    def validate(self, data: Iterable[Any], epoch: int) -> tuple[float, float]:
        self.model.eval()
        scores, labels = [], []
        # Not inference_mode: what a network caches here must serve the next epoch's backward.
        with torch.no_grad():
            for batch in data:
                image, label = self._batch(batch)
                scores.append(logits(self.model(image)).float())
                labels.append(label)
            if not scores:
                raise DebrideError("there are no validation images")
            score, label = torch.cat(scores), torch.cat(labels)
            loss = self.objective(score, label).item()
        if not (math.isfinite(loss) and bool(torch.isfinite(score).all())):
            raise _DivergedError(
                f"the outputs on validation images are not finite after epoch {epoch}: "
                "give a lower learning rate (--lr)"
            )
        return validation_metric(score.cpu(), label.cpu(), self.task), loss

    def _batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        images, labels = unpack(batch)
        if labels is None:
            raise DebrideError("the batches hold no labels: training needs them")
        images, labels = images.to(self.device), labels.to(self.device)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels


def validation_metric(scores: Tensor, labels: Tensor, task: Task) -> float:
    """Give balanced accuracy, or for a multi-label task macro ROC AUC, over the classes present.

    Parameters
    ----------
    scores
        Logits ``(N, K)``.
    labels
        Class indices ``(N,)``, or 0/1 ``(N, K)`` for a multi-label task.

    Examples
    --------
    >>> scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    >>> validation_metric(scores, torch.tensor([0, 0, 1, 1]), "multiclass")
    0.75
    """
    truth = labels.numpy()
    if task == "multilabel":
        defined = [k for k in range(scores.shape[1]) if 0 < truth[:, k].mean() < 1]
        if not defined:
            return 0.5
        return float(roc_auc_score(truth[:, defined], scores.numpy()[:, defined], average="macro"))
    truth = truth.reshape(-1)
    predicted = scores.argmax(1) if task == "multiclass" else (scores[:, 0] > 0).long()
    present = np.unique(truth)
    return float(
        recall_score(truth, predicted.numpy(), labels=present, average="macro", zero_division=0)
    )


def _objective(
    task: Task, counts: Sequence[int], data: Iterable[Any], device: torch.device
) -> Objective:
    """Make the loss in which every class weighs the same."""
    count = torch.tensor([max(value, 1) for value in counts], dtype=torch.float32, device=device)
    if task == "multiclass":
        weight = count.sum() / (len(count) * count)
        return lambda score, label: F.cross_entropy(score, label.long().reshape(-1), weight=weight)
    if task == "binary":
        ratio = count[0] / count[1]
    else:
        # A rare finding counts up to twenty times, more would let a few images rule the training.
        stored = getattr(data, "dataset", None)
        images = float(len(stored)) if isinstance(stored, Sized) else 2 * float(count.max())
        ratio = ((images - count) / count).clamp(1 / 20, 20)
    return lambda score, label: F.binary_cross_entropy_with_logits(
        score, label.to(score.dtype).reshape(score.shape), pos_weight=ratio
    )


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
def _placed(model: nn.Module, device: torch.device) -> Iterator[None]:
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
def _seeded(data: Any, epoch: int, seed: int, device: torch.device) -> Iterator[None]:
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
