"""How many images go through a network at once, from a limit on memory.

The estimate is what autograd and taps keep for one image: every storage once, parameters and
buffers left out; twice that, for what the backward makes. It bounds batches
and never changes results.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.relevance.tracing import hearing

GIB = 2**30
CPU_MOST = 0.5
"""GiB taken unasked on a CPU, where larger batches are no faster."""
BACKWARD = 2
"""What the backward makes, in multiples of what the forward keeps."""


@dataclass(frozen=True)
class Batches:
    """How steps and images are cut up, so that a batch stays within memory.

    Attributes
    ----------
    count : int
        Images of the whole batch.
    images, steps : int
        How many go through the network at once; a batch holds ``images · steps``, step-major.
    """

    count: int
    images: int
    steps: int

    def slices(self) -> Iterator[slice]:
        """Cut the images up."""
        for begin in range(0, self.count, self.images):
            yield slice(begin, min(begin + self.images, self.count))

    def chunks(self, steps: int) -> Iterator[range]:
        """Cut that many steps up."""
        for begin in range(0, steps, self.steps):
            yield range(begin, min(begin + self.steps, steps))


def plan_batches(
    model: nn.Module,
    images: Tensor,
    *,
    memory: float | None,
    through: contextlib.AbstractContextManager[Any],
    taps: Sequence[str] = (),
    whole: bool = False,
) -> Batches:
    """Plan batches from one image's forward.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    images : Tensor
        (B, C, *spatial).
    memory : float or None
        Limit in GiB; None takes a quarter of what is free.
    through : context manager
        What the forward runs in, such as a relevance pass.
    taps : sequence of str
        Modules whose outputs are cut up by image afterwards.
    whole : bool
        Never split the images: the target has to see them all.

    Raises
    ------
    DebrideError
        For a limit that is not above 0.

    Examples
    --------
    >>> conv = nn.Conv2d(1, 1, 1)
    >>> images = torch.zeros(4, 1, 8, 8)
    >>> plan_batches(conv, images, memory=1e-6, through=contextlib.nullcontext())
    Batches(count=4, images=2, steps=1)
    """
    if memory is not None and not memory > 0:
        raise DebrideError(f"memory is {memory} GiB: give a number above 0")
    limit = free_memory(images.device) if memory is None else memory * GIB
    # Where a tap does not lay out its output image by image, only whole batches can be told apart.
    apart = _image_by_image(model, images[:1], taps)
    each = BACKWARD * saved_bytes(model, images[:1], through, taps)
    at_once, count = max(1, int(limit // max(each, 1))), len(images)
    if at_once >= count:
        return Batches(count, count, at_once // count if apart else 1)
    return Batches(count, count if whole or not apart else at_once, 1)


def free_memory(device: torch.device) -> float:
    """Return the bytes that may be used unasked: a quarter of what is free.

    On a CPU at most `CPU_MOST` GiB.

    Examples
    --------
    >>> 0 < free_memory(torch.device("cpu")) <= CPU_MOST * GIB
    True
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + cached) / 4
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
    except (AttributeError, OSError, ValueError):  # Windows, macOS
        return GIB
    return min(free, CPU_MOST * GIB)


def saved_bytes(
    model: nn.Module,
    image: Tensor,
    through: contextlib.AbstractContextManager[Any],
    taps: Sequence[str] = (),
) -> int:
    """Return the bytes kept for a backward with taps, without parameters and buffers.

    Examples
    --------
    >>> saved_bytes(nn.Sigmoid(), torch.zeros(1, 1, 8), contextlib.nullcontext())
    32
    """
    seen = {_storage(t) for t in chain(model.parameters(), model.buffers())}
    kept: list[Tensor] = []
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        key = _storage(tensor)
        if key not in seen:
            seen.add(key)
            total += tensor.untyped_storage().nbytes()
            kept.append(tensor.detach())  # so that no other storage takes its place
        return tensor

    leaf = image.detach().clone().requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with hooks, hearing(model, taps, lambda _, tensor: count(tensor)), through:
        model(leaf)
    return total


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _image_by_image(model: nn.Module, image: Tensor, taps: Sequence[str]) -> bool:
    """Tell whether the first dimension of every tap grows with the batch."""
    if not taps:
        return True
    sizes: list[list[int]] = [[], []]
    for copies, found in enumerate(sizes, start=1):

        def meet(_: str, tensor: Tensor, found: list[int] = found) -> None:
            found.extend(tensor.shape[:1])

        with torch.no_grad(), hearing(model, taps, meet):
            model(torch.cat([image] * copies))
    return [2 * size for size in sizes[0]] == sizes[1]
