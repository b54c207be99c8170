"""Occlusion: what the output loses when a window of the image is covered."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from debride.errors import DebrideError
from debride.relevance.baselines import Baseline, baseline_images
from debride.relevance.memory import plan_batches
from debride.relevance.methods import Request, register_method
from debride.relevance.result import Relevance, from_maps
from debride.relevance.tracing import new_pass, wide

WINDOWS = 8
"""Windows along each side, where no size is asked for."""


@register_method("occlusion", title="Occlusion")
def occlusion(
    request: Request,
    *,
    window: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    baseline: Baseline = "zero",
    memory: float | None = None,
) -> Relevance:
    """Cover each window of each image and see how much the output falls (Zeiler & Fergus 2014).

    A pixel has the mean fall over the windows that cover it, the same on every channel. Nothing
    is differentiated, so that this works where no gradient does; there are no taps.

    Parameters
    ----------
    window : int or sequence of int, optional
        Pixels along each side of the image; an eighth of it where absent.
    stride : int or sequence of int, optional
        Pixels from one window to the next; half a window where absent. A last window that
        reaches over the border is cut off there.
    baseline : str, float or Tensor
        What is put into the window: see `debride.relevance.baselines.baseline_images`.
    memory : float, optional
        Limit in GiB, by what a forward with gradients would take; a quarter of what is free
        where absent.

    Raises
    ------
    DebrideError
        For a window larger than the image, a stride larger than the window, or taps.

    Examples
    --------
    >>> from debride import attribute
    >>> image = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    >>> network = torch.nn.Flatten()
    >>> total = lambda out: out.sum(1)
    >>> attribute(network, image, total, method="occlusion", window=2, stride=2).input
    tensor([[[3., 3., 7., 7.]]])
    """
    if request.taps:
        raise DebrideError("occlusion explains the input only: leave out taps")
    model, images = request.model, request.images
    size = tuple(images.shape[2:])
    sides = _each(window, tuple(max(1, side // WINDOWS) for side in size), "window")
    steps = _each(stride, tuple(max(1, side // 2) for side in sides), "stride")
    if any(w > side for w, side in zip(sides, size, strict=True)):
        raise DebrideError(f"the window {sides} is larger than the image {size}")
    gaps = zip(steps, sides, size, strict=True)
    if any(step > w and w < side for step, w, side in gaps):
        raise DebrideError(f"the stride {steps} skips pixels: at most the window {sides}")
    fill = baseline_images(baseline, images)
    goal, output = request.decide()
    plan = plan_batches(model, images, memory=memory, through=new_pass(model), whole=goal.whole)
    starts = [
        range(0, step * math.ceil((side - w) / step) + 1, step)
        for step, w, side in zip(steps, sides, size, strict=True)
    ]
    windows: list[tuple[Any, ...]] = [
        (..., *(slice(at, at + w) for at, w in zip(corner, sides, strict=True)))
        for corner in itertools.product(*starts)
    ]
    total = torch.zeros_like(wide(images[:, :1]))
    covered = torch.zeros_like(total[:1])
    for which in plan.slices():
        some, put = images[which], fill[which]
        for chunk in plan.chunks(len(windows)):
            points = some.repeat(len(chunk), *[1] * (images.ndim - 1))
            by_window = points.view(len(chunk), *some.shape)
            for position, number in enumerate(chunk):
                by_window[position][windows[number]] = put[windows[number]]
            with torch.no_grad():
                values = goal(model(points), which, len(chunk)).view(len(chunk), len(some))
            falls = wide(output[which] - values).view(*values.shape, *[1] * (some.ndim - 1))
            for position, number in enumerate(chunk):
                total[which][windows[number]] += falls[position]
    for window_ in windows:
        covered[window_] += 1
    relevance = (total / covered).to(images.dtype).expand_as(images).contiguous()
    return from_maps(relevance, output)


def _each(
    given: int | Sequence[int] | None, default: tuple[int, ...], what: str
) -> tuple[int, ...]:
    """Return one whole number for each side of the image."""
    if given is None:
        return default
    sides = (given,) * len(default) if isinstance(given, int) else tuple(given)
    if len(sides) != len(default) or min(sides, default=0) < 1:
        raise DebrideError(
            f"{what} is {given}: give 1 or more pixels, once or for each of {len(default)} sides"
        )
    return sides
