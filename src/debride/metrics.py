"""What a search holds on to: metrics of a split, and how sure a drop of one of them is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from debride.errors import DebrideError
from debride.evidence.task import decide
from debride.models.outputs import Task, probabilities
from debride.resampling import Array, area, mean_of_known, resampled, share, steps

NAMES = ("balanced_accuracy", "auc", "recall:CLASS")


def read_metric(name: str, classes: Sequence[str]) -> str:
    """Return a metric with its class as a number.

    Raises
    ------
    DebrideError
        For a metric or a class that is unknown.

    Examples
    --------
    >>> read_metric("recall:flu", ("healthy", "flu"))
    'recall:1'
    """
    kind, _, named = name.partition(":")
    if kind == "recall" and named:
        if named in classes:
            return f"recall:{list(classes).index(named)}"
        if named.isdigit() and int(named) < len(classes):
            return name
        raise DebrideError(f"no class '{named}': the classes are {', '.join(classes)}")
    if name not in NAMES[:2]:
        raise DebrideError(f"no metric '{name}': known: {', '.join(NAMES)}")
    return name


def measure(
    name: str, outputs: Tensor, labels: Tensor, task: Task, weights: Array | None = None
) -> Array:
    """Measure one network on images that each count as often as their weight says.

    Parameters
    ----------
    name : str
        ``"balanced_accuracy"``: mean recall of the classes (of a label and of its absence, for
        multi-label tasks); ``"auc"``: mean over classes of the area under the ROC curve, one
        against the rest; ``"recall:2"``: recall of class 2.
    outputs : Tensor
        (N, K) logits.
    labels : Tensor
        (N,) class indices, or (N, K) of 0 and 1 for multi-label tasks.
    task : str
    weights : array, optional
        (B, N); by default (1, N) of ones.

    Returns
    -------
    array
        (B,). Classes without images have no part in a mean.

    Examples
    --------
    >>> import torch
    >>> outputs = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    >>> truth = torch.tensor([0, 0, 1, 1])
    >>> measure("balanced_accuracy", outputs, truth, "multiclass").tolist()
    [0.75]
    >>> measure("recall:1", outputs, truth, "multiclass").tolist()
    [0.5]
    >>> measure("auc", outputs, truth, "multiclass").tolist()
    [0.75]
    """
    probable = probabilities(outputs.double(), task).numpy()
    truth = labels.numpy().astype(np.int64)
    if weights is None:
        weights = np.ones((1, len(truth)))
    kind, _, number = name.partition(":")
    if task == "multilabel":
        right = decide(probable, task) == truth
        members = truth == 1
    else:
        members = np.eye(probable.shape[1], dtype=bool)[truth.reshape(-1)]
        right = np.repeat((decide(probable, task) == truth.reshape(-1))[:, None], 2, 1)[:, :1]
        right = np.broadcast_to(right, members.shape)
    columns = range(members.shape[1])
    if kind == "recall":
        return share(weights, right[:, int(number)], members[:, int(number)])
    if kind == "auc":
        found = [area(steps(weights, probable[:, k], members[:, k])) for k in columns]
    else:
        found = [share(weights, right[:, k], members[:, k]) for k in columns]
        if task == "multilabel":
            found += [share(weights, right[:, k], ~members[:, k]) for k in columns]
    mean = mean_of_known(np.stack(found, axis=1))
    return np.where(np.isnan(mean), 0.5, mean)


def drop_bound(
    name: str,
    before: Tensor,
    after: Tensor,
    labels: Tensor,
    task: Task,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> float:
    """Bound the drop of a metric from above: a one-sided, paired bootstrap interval.

    The images are drawn anew 2000 times, with replacement, each class for itself (multi-label:
    all together); both networks are measured on the same draw. The bound is the `confidence`
    quantile of the drops (Efron and Tibshirani 1993, chapter 13).

    Parameters
    ----------
    name, labels, task
        See `measure`.
    before, after : Tensor
        (N, K) logits of the two networks.
    confidence : float
        How sure it is that the drop is not larger; 0.5 gives about the drop itself.

    Examples
    --------
    >>> import torch
    >>> truth = torch.arange(2).repeat(50)
    >>> right = torch.nn.functional.one_hot(truth).double()
    >>> drop_bound("balanced_accuracy", right, right, truth, "multiclass")
    0.0
    """
    multilabel = labels.ndim == 2 and labels.shape[1] > 1
    strata = np.zeros(len(labels), dtype=np.int64) if multilabel else labels.reshape(-1).numpy()
    drops = [
        measure(name, before, labels, task, weights) - measure(name, after, labels, task, weights)
        for weights in resampled(strata, seed)
    ]
    return float(np.quantile(np.concatenate(drops), confidence))
