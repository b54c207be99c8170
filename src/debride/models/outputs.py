"""What a network gives back: logits out of any container, the task, probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from debride.errors import DebrideError

Task = Literal["multiclass", "binary", "multilabel"]
_NAMES = ("logits", "out", "output", "pred", "predictions")


def logits(output: Any) -> Tensor:
    """Find the logits ``(B, K)`` in what a network returned.

    Takes a tensor, a tuple or list (its first tensor), a mapping or an object with a field named
    ``logits`` or ``out``, or a mapping with a single tensor ``(B, K)`` under any name. Numbers,
    such as a loss, are passed over. A vector ``(B,)`` becomes ``(B, 1)``; trailing sizes of 1 are
    dropped.

    Raises
    ------
    DebrideError
        Where there is no such tensor, or several under names that say nothing.

    Examples
    --------
    >>> logits({"logits": torch.zeros(4, 3), "hidden": torch.zeros(4, 16, 8)}).shape
    torch.Size([4, 3])
    >>> logits(torch.zeros(4)).shape
    torch.Size([4, 1])
    """
    found = first_tensor(_single_table(output))
    if found is None:
        raise DebrideError(
            f"the network returns {type(output).__name__} without a tensor of logits: "
            "return a tensor (images, classes), a tuple that starts so, or a dict with 'logits'"
        )
    if found.dim() == 1:
        return found.unsqueeze(1)
    while found.dim() > 2 and found.shape[-1] == 1:
        found = found.squeeze(-1)
    if found.dim() != 2:
        raise DebrideError(
            f"the network returns a tensor of shape {tuple(found.shape)}, not (images, classes): "
            "Debride prunes classifiers"
        )
    return found


def _single_table(output: Any) -> Any:
    """Take the only tensor (B, K) out of a dict whose names say nothing; refuse several."""
    if not isinstance(output, Mapping) or any(name in output for name in _NAMES):
        return output
    tables = [name for name, v in output.items() if isinstance(v, Tensor) and v.dim() == 2]
    if len(tables) > 1:
        names = ", ".join(f"'{name}'" for name in tables)
        raise DebrideError(
            f"the network returns a dict in which {names} could each be the logits: "
            "name them 'logits'"
        )
    return output[tables[0]] if tables else output


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that an output is, or holds under a name for logits or first of all."""
    if isinstance(output, Tensor):
        return output
    for name in _NAMES:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Mapping | tuple | list):
        for value in values:
            found = first_tensor(value)
            if found is not None and found.dim() > 0:
                return found
    return None


def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    """Give a network's logits ``(B, K)`` of a batch: float32, on the CPU, without gradients.

    Examples
    --------
    >>> outputs_of(torch.nn.Flatten(), torch.zeros(4, 1, 3)).shape
    torch.Size([4, 3])
    """
    with torch.no_grad():
        return logits(model(images)).float().cpu()


def probable(model: nn.Module, images: Tensor, task: Task) -> Tensor:
    """Give a network's probabilities ``(B, classes)`` of a batch: float64, on the CPU.

    Examples
    --------
    >>> probable(torch.nn.Flatten(), torch.zeros(1, 1, 2), "multiclass")
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return probabilities(outputs_of(model, images), task).double()


def task_of(outputs: int, classes: int, multilabel: bool) -> Task:
    """Tell the task from the number of logits and of classes.

    One logit for two classes is ``"binary"`` (a sigmoid); one logit a class is ``"multiclass"``,
    or ``"multilabel"`` where an image may have several labels.

    Raises
    ------
    DebrideError
        When the numbers do not go together.

    Examples
    --------
    >>> task_of(1, 2, False), task_of(7, 7, False), task_of(14, 14, True)
    ('binary', 'multiclass', 'multilabel')
    """
    if multilabel and outputs == classes:
        return "multilabel"
    if not multilabel and outputs == 1 and classes == 2:
        return "binary"
    if not multilabel and outputs == classes and classes > 1:
        return "multiclass"
    kind = "labels that can hold together" if multilabel else "classes"
    raise DebrideError(
        f"the network has {outputs} outputs and the data have {classes} {kind}: "
        "give a network with one output a class (for two classes also a single output)"
    )


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """Turn logits ``(B, K)`` into probabilities ``(B, classes)``; binary gives two columns.

    Examples
    --------
    >>> probabilities(torch.zeros(1, 1), "binary")
    tensor([[0.5000, 0.5000]])
    """
    if task == "multiclass":
        return logits.softmax(dim=1)
    positive = logits.sigmoid()
    if task == "binary":
        return torch.cat([1 - positive, positive], dim=1)
    return positive
