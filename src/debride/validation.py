"""What the validation images say of a network that is being cut: its metric, and its distance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.metrics import drop_bound, measure, read_metric
from debride.models.outputs import Task, outputs_of
from debride.models.state import undisturbed
from debride.timing import stopwatch


class NotFiniteError(DebrideError):
    """An output that is infinite or not a number."""


class Validation:
    """The validation images, and the original network's outputs on them.

    Parameters
    ----------
    metric : str, optional
        See `debride.metrics`; balanced accuracy by default, macro ROC AUC if multi-label.

    Attributes
    ----------
    original : Tensor
        (N, K) logits of the network before any cut.
    seconds : float
        What one evaluation of the original took.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[Any],
        task: Task | None,
        device: torch.device,
        metric: str | None = None,
    ) -> None:
        self.data, self.device = data, device
        now = stopwatch(device)
        begin = now()
        self.original, self.labels = self._run(model)
        self.seconds = now() - begin
        if task is None:
            multilabel = self.labels.ndim == 2 and self.labels.shape[1] > 1
            task = "multilabel" if multilabel else "multiclass"
            task = "binary" if self.original.shape[1] == 1 else task
        self.task: Task = task
        classes = 2 if task == "binary" else self.original.shape[1]
        wrong = self.labels[(self.labels < 0) | (self.labels >= classes)]
        if task != "multilabel" and len(wrong):
            raise DebrideError(
                f"a validation image has the label {int(wrong[0])}, and the network "
                f"tells {classes} classes apart: give labels from 0 to {classes - 1}"
            )
        usual = "auc" if task == "multilabel" else "balanced_accuracy"
        self.measure = read_metric(metric or usual, [str(k) for k in range(classes)])

    def outputs(self, model: nn.Module) -> Tensor:
        """Return a network's (N, K) logits."""
        return self._run(model)[0]

    def metric(self, outputs: Tensor) -> float:
        """Return the metric of a network's outputs."""
        return float(measure(self.measure, outputs, self.labels, self.task)[0])

    def measured(self, model: nn.Module) -> tuple[float, float]:
        """Return metric and divergence; 0 and not a number where an output is not finite."""
        try:
            outputs = self.outputs(model)
        except NotFiniteError:
            return 0.0, float("nan")
        return self.metric(outputs), self.divergence(outputs)

    def drop_bound(self, outputs: Tensor, confidence: float) -> float:
        """Return what the drop of the metric from the original's does not exceed."""
        return drop_bound(
            self.measure, self.original, outputs, self.labels, self.task, confidence=confidence
        )

    def divergence(self, outputs: Tensor) -> float:
        """Return the mean Kullback-Leibler divergence from the original's decisions, in nats."""
        if self.task == "multiclass":
            now, before = outputs.log_softmax(1), self.original.log_softmax(1)
            return float(F.kl_div(now, before, reduction="batchmean", log_target=True))
        signs = torch.tensor([1.0, -1.0])
        now, before = (F.logsigmoid(v.unsqueeze(-1) * signs) for v in (outputs, self.original))
        return float(F.kl_div(now, before, reduction="sum", log_target=True)) / len(outputs)

    def _run(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        scores: list[Tensor] = []
        truth: list[Tensor] = []
        with undisturbed(model):
            model.eval()
            for batch in self.data:
                images, labels = unpack(batch)
                if labels is None:
                    raise DebrideError("the validation data have no labels")
                scores.append(outputs_of(model, images.to(self.device)))
                truth.append(labels.cpu())
        if not scores:
            raise DebrideError("the validation data are empty: give at least one image")
        joined = torch.cat(scores)
        if not bool(torch.isfinite(joined).all()):
            raise NotFiniteError("the network gives outputs that are not finite: check its weights")
        return joined, torch.cat(truth)
