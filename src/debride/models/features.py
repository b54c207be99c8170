"""What the last layer of a network reads: its features of an image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from debride.errors import DebrideError
from debride.models.state import undisturbed


def last_layer(model: nn.Module, example: Tensor) -> str:
    """Name the linear layer or convolution that runs last.

    Parameters
    ----------
    model : nn.Module
    example : Tensor
        (1, C, *spatial) on the network's device.

    Raises
    ------
    DebrideError
        Where no such layer runs.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3), nn.Identity())
    >>> last_layer(net, torch.zeros(1, 1, 4, 4))
    '2'
    """
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
    ]
    try:
        with undisturbed(model), torch.no_grad():
            model.eval()
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise DebrideError(
            "the network has no linear layer or convolution whose input could serve as features"
        )
    return ran[-1]


@contextlib.contextmanager
def reading(model: nn.Module, layer: str) -> Iterator[Callable[[], Tensor]]:
    """Give, inside the block, what a layer read in the latest run.

    Parameters
    ----------
    model : nn.Module
        Is left as it was.
    layer : str
        A linear layer or convolution.

    Returns
    -------
    callable
        () → (B, D), averaged over places or tokens.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 1))
    >>> with reading(net, "1") as features, torch.no_grad():
    ...     _ = net(torch.zeros(5, 1, 4, 4))
    ...     features().shape
    torch.Size([5, 2])
    """
    module = model.get_submodule(layer)
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[:] = args[:1]

    def features() -> Tensor:
        (x,) = seen
        if x.ndim == 2:
            return x
        return x.flatten(2).mean(2) if isinstance(module, _ConvNd) else x.flatten(1, -2).mean(1)

    handle = module.register_forward_pre_hook(keep)
    try:
        yield features
    finally:
        handle.remove()
        seen.clear()
