"""What a layer reads: mean and covariance of its input patches, over images that stream by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.models.attention import opened
from debride.models.state import undisturbed

WIDEST = 8192
"""A layer that reads more numbers than this keeps samples: its covariance would fill the memory."""

POSITIONS = 64
"""Places drawn from each image of a feature map, tokens of a sequence alike, at most."""

PATCHES = 16
"""Patches wanted for each number in one: with so many, more hardly move a covariance."""

LEAST_PATCHES = 8192
"""Wanted of a layer at least, for the sake of its mean."""

SAMPLES = 1024
"""Patches kept of a layer that is too wide for a covariance."""


def solvable(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that systems of a network's numbers are summed up and solved in.

    Examples
    --------
    >>> solvable(torch.bfloat16), solvable(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class Moments:
    """Mean and covariance of what one layer reads, summed up batch by batch.

    Of a layer wider than `WIDEST` it keeps some of the patches themselves instead.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._width = width
        self._origin: Tensor | None = None
        self._sum: Tensor | None = None
        self._products: Tensor | None = None
        self._kept: list[Tensor] = []

    def add(self, patches: Tensor) -> None:
        """Take in (N, D) patches."""
        patches = patches.to(solvable(patches.dtype))
        if self._origin is None:  # products around an origin near the mean lose few digits
            self._origin = patches.mean(0)
            self._sum = torch.zeros_like(self._origin, dtype=torch.float64)
            if self._width <= WIDEST:
                self._products = patches.new_zeros(self._width, self._width)
        assert self._sum is not None
        moved = patches - self._origin
        self.count += len(moved)
        self._sum += moved.sum(0, dtype=torch.float64)
        if self._products is not None:
            self._products.addmm_(moved.T, moved)
        elif (held := sum(map(len, self._kept))) < SAMPLES:
            self._kept.append(moved[: SAMPLES - held].clone())

    @property
    def mean(self) -> Tensor:
        """(D,) mean patch."""
        assert self._origin is not None
        assert self._sum is not None
        return self._origin.double() + self._sum / self.count

    def covariance(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the (R, C) block of the covariance, in the precision of the patches."""
        assert self._sum is not None
        if self._products is None:
            left = self._held(rows)
            return left.T @ self._held(columns) / len(left)
        block = self._products.index_select(0, rows).index_select(1, columns).div_(self.count)
        moved = (self._sum / self.count).to(block.dtype)
        return block.addr_(moved[rows], moved[columns], alpha=-1)

    def replace(
        self, weight: Tensor, lost: Tensor, kept: Tensor, ridge: float, *, centred: bool
    ) -> Tensor:
        """Return the weights with which kept inputs best say what the lost ones said.

        Parameters
        ----------
        weight : Tensor
            (O, L) float64, what outputs made of the lost inputs.
        lost, kept : Tensor
            (L,) and (K,) places in a patch.
        ridge : float
            λ as a fraction of the mean variance of what is kept.
        centred : bool
            Whether a bias takes up what the means leave over; else the means must fit as well.

        Returns
        -------
        Tensor
            (O, K) float64, W_l C_lk (C_kk + λI)⁻¹. Where only N samples are held, the same by
            way of their (N, N) products: W_l X_lᵀ (X_k X_kᵀ + NλI)⁻¹ X_k.
        """
        tiny = torch.finfo(torch.float32).tiny
        if self._products is None:
            offset = torch.zeros_like(self.mean) if centred else self.mean
            seen = self._held(kept) + offset[kept]
            said = (self._held(lost) + offset[lost]) @ weight.T
            products = seen @ seen.T
            products.diagonal().add_(ridge * seen.square().sum().clamp(min=tiny) / len(kept))
            return torch.cholesky_solve(said, torch.linalg.cholesky(products)).T @ seen
        spread, shared = self.covariance(kept, kept), self.covariance(lost, kept)
        if not centred:
            offset = self.mean.to(spread.dtype)
            spread.addr_(offset[kept], offset[kept])
            shared.addr_(offset[lost], offset[kept])
        spread.diagonal().add_(ridge * spread.diagonal().mean().clamp(min=tiny))
        said = (weight.to(shared.dtype) @ shared).T
        factor, failed = torch.linalg.cholesky_ex(spread)
        if failed:  # nearly singular for the precision of the network
            factor, said = torch.linalg.cholesky(spread.double()), said.double()
        return torch.cholesky_solve(said, factor).T.double()

    def _held(self, places: Tensor) -> Tensor:
        """Return the samples' values at some places, around their mean, in float64."""
        held = torch.cat([rows[:, places] for rows in self._kept])[:SAMPLES].double()
        return held - held.mean(0)


def collect(
    model: nn.Module, layers: Iterable[str], data: Iterable[Any], device: str | torch.device
) -> dict[str, Moments]:
    """Run images through a network once and sum up what the named layers read.

    Parameters
    ----------
    model : nn.Module
        Comes back as it was.
    layers : iterable of str
        Names of convolutions and linear layers.
    data : iterable
        Batches of images; labels are ignored.

    Returns
    -------
    dict
        For each layer that ran: the moments of its patches, (channels in · kernel) numbers each, in
        the order of its flattened weight. A transposed convolution reads channels alone.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Moments] = {}
    images = sum(len(unpack(batch)[0]) for batch in data)
    if not images:
        raise DebrideError("repair needs images: give training images")

    def watch(name: str, module: nn.Module, seen: Tensor) -> None:
        wanted = max(PATCHES * width(module), LEAST_PATCHES)
        most = min(math.ceil(wanted / images), POSITIONS)
        patches = patches_of(module, seen.detach(), lambda count: drawn(count, most, generator))
        if name not in found:
            found[name] = Moments(patches.shape[1])
        found[name].add(patches)

    handles = []
    try:
        for name in layers:
            module = model.get_submodule(name)
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, args, name=name: watch(name, module, args[0])
                )
            )
        # opened, attention calls the layer that reads its heads, and the hook sees it
        with undisturbed(model), opened(model), torch.no_grad():
            model.eval()
            for batch in data:
                model(unpack(batch)[0].to(device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def reads(module: nn.Module) -> bool:
    """Tell whether a layer is one whose input patches can be collected."""
    return isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1)


def flat_weight(module: nn.Module) -> Tensor:
    """Return a copy of a layer's weight as (outputs, patch), in float64.

    A transposed convolution gives (outputs · kernel, channels in).
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, _ConvTransposeNd):
        weight = weight.flatten(1).T
    return weight.detach().double().flatten(1)


def width(module: nn.Module) -> int:
    """Return how many numbers a patch of a layer's input has."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    transposed = isinstance(module, _ConvTransposeNd)  # reads channels alone
    return weight.shape[0] if transposed else weight[0].numel()


def patches_of(module: nn.Module, seen: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
    """Return (N, D) patches of what a layer reads, of each image at the places that `draw` names.

    Parameters
    ----------
    module : nn.Module
    seen : Tensor
        Its input.
    draw : callable
        Given the number of places of one image, those that are wanted.
    """
    if isinstance(module, nn.Linear):
        rows = seen.reshape(seen.shape[0], -1, seen.shape[-1])
        return rows[:, draw(rows.shape[1]).to(seen.device)].flatten(0, 1)
    assert isinstance(module, _ConvNd)
    spatial = len(module.kernel_size)
    if seen.ndim == spatial + 1:
        seen = seen.unsqueeze(0)
    if isinstance(module, _ConvTransposeNd):
        rows = seen.flatten(2).transpose(1, 2)
        return rows[:, draw(rows.shape[1]).to(seen.device)].flatten(0, 1)
    padding: list[int] = list(module._reversed_padding_repeated_twice)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    seen = F.pad(seen, padding, mode=mode)
    counts = []
    for dim, (kernel, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        seen = seen.unfold(dim + 2, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        counts.append(seen.shape[dim + 2])
    chosen = draw(math.prod(counts)).to(seen.device)
    index: list[Any] = [slice(None), slice(None), *torch.unravel_index(chosen, counts)]
    found = seen[tuple(index)]  # (B, C, N, *kernel)
    return found.transpose(1, 2).flatten(0, 1).flatten(1)


def drawn(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw at most so many of the places that there are."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most]


def positions(layer: nn.Module, channels: Iterable[int]) -> Tensor:
    """Return where the input channels named lie in a flattened patch."""
    index = torch.tensor(sorted(channels), dtype=torch.long)
    if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return index
    size = math.prod(layer.kernel_size)
    return (index[:, None] * size + torch.arange(size)).flatten()
