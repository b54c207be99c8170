"""Grad-CAM: where the channels of one layer speak for the output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.outputs import first_tensor
from debride.relevance.memory import plan_batches
from debride.relevance.methods import Request, register_method
from debride.relevance.result import Relevance, from_maps, joined
from debride.relevance.tracing import Sums, backward, check_taps, forward, gradients, new_pass

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
TOKENS = 16
"""Most tokens in front of the patches: class tokens and registers."""
NOT_MAPS = (nn.Dropout, nn.Identity, nn.Softmax)
"""Modules out of which attention matrices come, which look like maps."""
STRETCH = 2
"""How much more a layer may shrink one side of the image than another."""


@register_method("gradcam", title="Grad-CAM")
def gradcam(
    request: Request, *, layer: str | None = None, relu: bool = True, memory: float | None = None
) -> Relevance:
    """Weight a layer's channels by their mean gradient and add them up (Selvaraju et al. 2017).

    The map is scaled up to the image linearly and is the same on every channel of
    `Relevance.input`. `Relevance.taps` holds the map of the layer, and of every other tapped
    module, as it was, (B, *grid). Tokens are laid out as the grid of patches that they stand for;
    class tokens, which come first, are left out.

    Parameters
    ----------
    layer : str, optional
        A module with a spatial output: (B, C, *grid), (B, *grid, C) or tokens (B, N, C). Where
        absent, the last one that the output reads; of tokens the last norm.
    relu : bool
        Keep only what speaks for the output.
    memory : float, optional
        Limit in GiB above which the batch is split.

    Raises
    ------
    DebrideError
        For a layer without spatial output.

    Examples
    --------
    >>> from debride import attribute
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    >>> found = attribute(model, torch.rand(1, 1, 8, 8), 0, method="gradcam")
    >>> {name: tuple(found.taps[name].shape) for name in found.taps}
    {'1': (1, 6, 6)}
    """
    model, images = request.model, request.images
    size = tuple(images.shape[2:])
    if len(size) not in MODES:
        raise DebrideError(f"Grad-CAM needs images (B, C, *spatial), not {tuple(images.shape)}")
    goal, output = request.decide()
    if layer is None:
        layer = last_spatial(model, images[:1])
    taps = tuple(dict.fromkeys((layer, *request.taps)))
    check_taps(model, taps)
    probe = new_pass(model)
    slices: Iterable[slice] = [slice(None)]
    if memory is not None:
        plan = plan_batches(model, images, memory=memory, through=probe, whole=goal.whole)
        slices = plan.slices()
    parts = []
    for which in slices:
        some = images[which]
        maps, through = Maps(size, len(some)), new_pass(model, strict=request.strict)
        explain = partial(goal, which=which)
        gradients(model, some, explain, through=through, taps=taps, visit=maps.visit)
        if layer not in maps.found:
            raise DebrideError(f"the explained output does not read module '{layer}'")
        found = {name: value.relu() if relu else value for name, value in maps.found.items()}
        heat = F.interpolate(found[layer][:, None], size, mode=MODES[len(size)])
        heat = heat.expand_as(some).contiguous()
        parts.append(from_maps(heat, output[which], taps=found, unknown=through.unknown))
    return joined(parts)


class Maps(Sums):
    """The Grad-CAM of each tapped module: mean gradient of each channel times the channel."""

    def __init__(self, size: tuple[int, ...], count: int) -> None:
        super().__init__()
        self.size, self.count = size, count

    def visit(self, name: str, activation: Tensor, c: Tensor) -> None:
        """Meet one call of a tapped module."""
        layout = layout_of(activation.shape, self.size)
        if layout is None or len(activation) != self.count:
            raise DebrideError(
                f"module '{name}' has no spatial output, its shape is {tuple(activation.shape)}: "
                "give a layer= whose output is a map or tokens"
            )
        weights = layout.to_map(c).flatten(2).mean(2)
        self.add(name, torch.einsum("bc,bc...->b...", weights, layout.to_map(activation)))


def last_spatial(model: nn.Module, image: Tensor) -> str:
    """Return the name of the last module with a spatial output that the network's output reads.

    A vision transformer that reads its class token alone gives the last patches no gradient, so
    that one forward and backward is made to see which layer still has some.

    Raises
    ------
    DebrideError
        Where there is none.

    Examples
    --------
    >>> last_spatial(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval(), torch.rand(1, 1, 8, 8))
    '0'
    """
    size = tuple(image.shape[2:])
    modules = {name: module for name, module in model.named_modules() if name}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    order: list[str] = []

    def visit(name: str, activation: Tensor, c: Tensor) -> None:
        found[name] = activation, c

    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in modules.items()
    ]
    try:
        through = new_pass(model)
        leaf, output = forward(model, image, through, list(modules), visit)
    finally:
        for handle in handles:
            handle.remove()
    final = first_tensor(output)
    assert final is not None
    weights = torch.linspace(1, 2, final.numel(), dtype=final.dtype, device=final.device)
    backward(final.flatten() * weights, [leaf], model, through.departed(final))
    candidates: dict[str, Tensor] = {}
    for name in order:
        if name not in found:
            continue
        activation, c = found[name]
        layout = layout_of(activation.shape, size)
        is_output = activation.shape == final.shape and activation.data_ptr() == final.data_ptr()
        if layout is None or len(activation) != 1 or is_output:
            continue
        kind = type(modules[name])
        if issubclass(kind, NOT_MAPS) or (layout.tokens and "Norm" not in kind.__name__):
            continue
        candidates.pop(name, None)
        candidates[name] = layout.to_map(c).any()
    if not candidates:
        raise DebrideError("the network has no module with a spatial output: give layer=")
    alive = torch.stack(list(candidates.values())).tolist()
    reading = [name for name, some in zip(candidates, alive, strict=True) if some]
    return (reading or list(candidates))[-1]


@dataclass(frozen=True)
class Layout:
    """Where a tensor holds its places.

    Attributes
    ----------
    grid : tuple of int
    channel : int
        Dimension of the channels.
    tokens : bool
        Whether the grid is one dimension of tokens, after `extra` tokens that are no patches.
    """

    grid: tuple[int, ...]
    channel: int
    tokens: bool = False
    extra: int = 0

    def to_map(self, value: Tensor) -> Tensor:
        """Return the tensor as (B, C, *grid)."""
        if self.tokens:
            value = value[:, self.extra :].reshape(len(value), *self.grid, -1)
        return value.movedim(self.channel, 1)


def layout_of(shape: Sequence[int], size: Sequence[int]) -> Layout | None:
    """Tell how an output of this shape lays out an image of this size; None for not at all.

    Of (B, C, *grid) and (B, *grid, C) the one is taken that shrinks all sides more alike.

    Examples
    --------
    >>> layout_of((2, 512, 7, 7), (224, 224))
    Layout(grid=(7, 7), channel=1, tokens=False, extra=0)
    >>> layout_of((2, 56, 56, 96), (224, 224)).channel
    -1
    >>> layout_of((2, 197, 192), (224, 224))
    Layout(grid=(14, 14), channel=-1, tokens=True, extra=1)
    """
    shape, sides = tuple(shape), len(size)
    if len(shape) == sides + 2:
        ways = [Layout(shape[2:], 1), Layout(shape[1:-1], -1)]
        best = min(ways, key=lambda way: _stretch(way.grid, size))
        return best if math.prod(best.grid) > 1 and _stretch(best.grid, size) <= STRETCH else None
    if len(shape) != 3:
        return None
    for extra in range(min(TOKENS, shape[1] - 2) + 1):
        patches = shape[1] - extra
        side = (math.prod(size) / patches) ** (1 / sides)
        grid = tuple(max(1, round(length / side)) for length in size)
        if math.prod(grid) == patches:
            return Layout(grid, -1, tokens=True, extra=extra)
    return None


def _stretch(grid: Sequence[int], size: Sequence[int]) -> float:
    ratios = [length / max(cells, 1) for cells, length in zip(grid, size, strict=True)]
    return max(ratios) / min(ratios)
