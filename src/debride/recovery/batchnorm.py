"""Batch-norm recalibration: the statistics of a cut network, measured anew. No labels needed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.models.state import undisturbed
from debride.planning.plan import Group, PlannedGroup
from debride.recovery.registry import Recovery, register_recovery


def recalibrate(
    model: nn.Module, data: Iterable[Any], *, device: str | torch.device | None = None
) -> nn.Module:
    """Set every batch norm's running statistics to their mean over the batches given, in place.

    Parameters
    ----------
    model : nn.Module
        Its weights stay; a network without batch norm comes back unchanged.
    data : iterable
        Batches of training images in mixed order, two images or more; labels are ignored.
    device : str or torch.device, optional
        Where the images go; the network's own by default.

    References
    ----------
    Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning".
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return model
    device = next((p.device for p in model.parameters()), "cpu") if device is None else device
    momenta = [norm.momentum for norm in norms]
    statistics = [copy.deepcopy(dict(norm.named_buffers())) for norm in norms]
    batches = 0
    with undisturbed(model), torch.no_grad():
        model.eval()
        try:
            for norm in norms:
                norm.train()
                norm.momentum = None  # a cumulative mean over all batches
                norm.reset_running_stats()
            for images in _never_alone(data):
                model(images.to(device))
                batches += 1
            if not batches:
                raise DebrideError("recalibration needs two images or more: give training images")
        except BaseException:
            for norm, kept in zip(norms, statistics, strict=True):
                for name, value in kept.items():
                    norm.get_buffer(name).copy_(value)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return model


@register_recovery("batchnorm")
def batch_norms(
    original: nn.Module, groups: Sequence[Group], data: Iterable[Any], *, device: str | torch.device
) -> Recovery:
    """Recalibrate the batch norms of each cut network, and touch nothing else."""

    def repair(model: nn.Module, cut: Sequence[PlannedGroup]) -> None:
        recalibrate(model, data, device=device)

    return repair


def _never_alone(data: Iterable[Any]) -> Iterator[Tensor]:
    """Join a batch of one image to the next: a norm of pooled features cannot take it alone.

    One of another size than the next stays alone; its own places are then its statistics.
    """
    held: Tensor | None = None
    for batch in data:
        images = unpack(batch)[0]
        if held is not None and held.shape[1:] != images.shape[1:]:
            yield held
        elif held is not None:
            images = torch.cat([held, images])
        held = images if images.shape[0] == 1 else None
        if held is None:
            yield images
