"""A sound baseline for those who have no checkpoint yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import recall_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from debride.errors import DebrideError
from debride.learning import (
    Course,
    EpochRecord,
    Lesson,
    TrainResult,
    batches_in,
    learn,
    on_device,
)
from debride.models.outputs import Task, logits

Objective = Callable[[Tensor, Tensor], Tensor]

# Twice as much reaches the same, but batch norm's running statistics cannot follow: ResNet-18 on
# 64-px blood cells stands at chance on validation images until the rate has come down.
DEFAULT_RATE = 5e-4


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
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
) -> TrainResult:
    """Train `model` in place; afterwards it holds the weights of its best epoch.

    The loop is that of `debride.learning.learn`, with a loss balanced over the classes.

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
    steps = batches_in(model, train_data)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    rate = DEFAULT_RATE if lr is None else lr
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
    objective = balanced_loss(task, counts, train_data, device)

    def loss(images: Tensor, labels: Tensor | None) -> Tensor:
        return objective(logits(model(images)), needed(labels))

    return learn(
        model,
        Lesson(loss, lambda: _validate(model, val_data, task, objective, device)),
        train_data,
        Course(
            epochs,
            steps,
            rate,
            weight_decay,
            patience if patience is not None else max(5, epochs // 3),
            seed,
        ),
        device=device,
        settings=settings,
        folder=None if folder is None else Path(folder),
        on_epoch=on_epoch,
    )


def needed(labels: Tensor | None) -> Tensor:
    """Return the labels of a batch, and refuse one that has none."""
    if labels is None:
        raise DebrideError("the batches hold no labels: training needs them")
    return labels


def _validate(
    model: nn.Module, data: Iterable[Any], task: Task, objective: Objective, device: torch.device
) -> tuple[float, float]:
    """Return metric and loss; the loss is not a number where an output is not finite."""
    scores, labels = [], []
    # Not inference_mode: what a network caches here must serve the next epoch's backward.
    with torch.no_grad():
        for batch in data:
            image, label = on_device(batch, device)
            scores.append(logits(model(image)).float())
            labels.append(needed(label))
        if not scores:
            raise DebrideError("there are no validation images")
        score, label = torch.cat(scores), torch.cat(labels)
        if not bool(torch.isfinite(score).all()):
            return 0.0, float("nan")
        loss = objective(score, label).item()
    return validation_metric(score.cpu(), label.cpu(), task), loss


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


def balanced_loss(
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
