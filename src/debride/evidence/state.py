"""Measure networks and hand them back exactly as they came."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from debride.models.state import undisturbed


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Put networks into eval mode without gradients, and everything back at the end.

    The global random state is put back too, because iterating over a DataLoader draws
    from it.

    Examples
    --------
    >>> layer = nn.Dropout()
    >>> with frozen(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    gradients = [(p, p.grad) for model in models for p in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for model in models:
            stack.enter_context(undisturbed(model))
        try:
            for model in models:
                model.eval().requires_grad_(False)
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


def device_of(model: nn.Module) -> torch.device:
    """Give the device of the first parameter, or the CPU for a network without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """Give the network itself if it is on the device, else a copy that is."""
    if device_of(model) == device:
        return model
    return copy.deepcopy(model).to(device)


def at_once(model: nn.Module, images: Tensor, most: int = 32) -> int:
    """Give how many images may go through the network, and back, within the free memory.

    Parameters
    ----------
    model
        In evaluation mode.
    images
        (B, C, *spatial), B ≥ 1, on the network's device.
    most
        Beyond this, larger batches are no faster.

    Examples
    --------
    >>> at_once(nn.Conv2d(1, 1, 1), torch.zeros(4, 1, 8, 8))
    32
    """
    from debride.relevance.memory import BACKWARD, free_memory, saved_bytes

    each = BACKWARD * max(1, saved_bytes(model, images[:1], nullcontext()))
    return int(max(1, min(most, free_memory(images.device) // each)))
