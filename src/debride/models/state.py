"""Leave a network that was handed in exactly as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Put the training flag of every module and `requires_grad` of every parameter back.

    Examples
    --------
    >>> model = nn.Dropout().train()
    >>> with undisturbed(model):
    ...     _ = model.eval()
    >>> model.training
    True
    """
    training = [(module, module.training) for module in model.modules()]
    frozen = [
        (parameter, parameter.requires_grad)
        for module, _ in training
        for parameter in module._parameters.values()
        if parameter is not None
    ]
    try:
        yield model
    finally:
        for module, flag in training:
            if module.training != flag:
                module.training = flag
        for parameter, flag in frozen:
            if parameter.requires_grad != flag:  # inference tensors refuse even the same
                parameter.requires_grad_(flag)
