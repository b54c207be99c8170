"""Least-squares repair: the layers that read what is left say again what they said before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from debride.planning.layers import is_depthwise
from debride.planning.plan import Group, PlannedGroup
from debride.recovery.batchnorm import recalibrate
from debride.recovery.moments import Moments, collect, flat_weight, positions, reads
from debride.recovery.registry import Recovery, register_recovery

RIDGE = 1e-3
"""Of the mean variance of what is kept: how firmly weights stay where they were."""


@register_recovery("least_squares")
def least_squares(
    original: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    device: str | torch.device,
    ridge: float = RIDGE,
    kinds: type[nn.Module] = nn.Module,
) -> Recovery:
    """Give each layer that lost inputs the weights that best repeat its old output.

    With the original's inputs x = (x_k, x_r) of covariance C, kept and removed, the weights become
    W_k + W_r C_rk (C_kk + λI)⁻¹ and the bias takes what the means leave over. The images are run
    through the original once, before the first cut; each repair starts from the original's weights,
    so errors of earlier steps do not add up. Batch-norm statistics are measured anew at the end.

    Parameters
    ----------
    original : nn.Module
        The network before any cut.
    groups : sequence of Group
        What may be cut.
    data : iterable
        Re-iterable batches of training images; labels are ignored. Memory does not grow with them.
    device : str or torch.device
    ridge : float
        λ as a fraction of the mean variance of what is kept.
    kinds : type
        Which layers; all that can be repaired by default.

    Returns
    -------
    callable
        (cut network, its groups) → None; repairs in place.

    References
    ----------
    He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", eq. 1, in closed
    form and kept near the old weights.
    """
    layers = [n for n in _readers(original, groups) if isinstance(original.get_submodule(n), kinds)]
    moments = collect(original, layers, data, device) if layers else {}
    normed = normed_layers(groups)

    def repair(model: nn.Module, cut: Sequence[PlannedGroup]) -> None:
        for name, (gone, rows) in _lost(original, cut).items():
            if name in moments:
                layer, old = model.get_submodule(name), original.get_submodule(name)
                _solve(layer, old, moments[name], gone, rows, ridge, name in normed)
        recalibrate(model, data, device=device)

    return repair


@register_recovery("mean")
def mean_compensation(
    original: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    device: str | torch.device,
) -> Recovery:
    """Add what removed inputs gave on average to the bias of each layer that read them.

    Where a layer has no bias, the batch norm behind it is measured anew and does the same, or it
    gets a bias, which a saved network keeps. Readers of other kinds, such as grouped convolutions,
    stay as they are.

    Parameters are those of `least_squares`.

    References
    ----------
    Ye et al. 2018, "Rethinking the Smaller-Norm-Less-Informative Assumption", section 4.
    """
    normed = normed_layers(groups)
    layers = [
        name
        for name in _readers(original, groups)
        if _bias(original, name) is not None or name not in normed
    ]
    moments = collect(original, layers, data, device) if layers else {}

    def repair(model: nn.Module, cut: Sequence[PlannedGroup]) -> None:
        for name, (gone, rows) in _lost(original, cut).items():
            if name in moments:
                old = original.get_submodule(name)
                lost = positions(old, gone).to(moments[name].mean.device)
                weight = flat_weight(old)
                shift = weight[:, lost] @ moments[name].mean[lost]
                total, former = _per_output(old, shift), _bias(original, name)
                if former is not None:
                    total = total + former.detach().double()
                with torch.no_grad():
                    _own_bias(model.get_submodule(name)).copy_(total[rows.to(total.device)])
        recalibrate(model, data, device=device)

    return repair


def _solve(
    layer: nn.Module,
    old: nn.Module,
    moments: Moments,
    gone: set[int],
    rows: Tensor,
    ridge: float,
    norm_follows: bool,
) -> None:
    """Set the weights of one cut layer, and its bias where it has one."""
    channels = old.weight.shape[0 if isinstance(old, _ConvTransposeNd) else 1]  # type: ignore[index]
    weight = flat_weight(old)
    place = weight.device
    index = rows.to(place)
    if not isinstance(old, _ConvTransposeNd):  # an output's weights depend on no other output
        weight = weight[index]
    lost = positions(old, gone).to(place)
    kept = positions(old, set(range(channels)) - gone).to(place)
    bias, average = layer.bias, moments.mean
    # a transposed convolution's bias is one for all places of its kernel
    several = isinstance(old, _ConvTransposeNd)
    centred = (isinstance(bias, Tensor) or norm_follows) and not several
    added = moments.replace(weight[:, lost], lost, kept, ridge, centred=centred)
    shift = weight[:, lost] @ average[lost] - added @ average[kept]
    new = added.add_(weight[:, kept])
    with torch.no_grad():
        target = layer.weight
        assert isinstance(target, Tensor)
        if isinstance(old, _ConvTransposeNd):
            new = new.T.view(len(kept), old.out_channels, *old.kernel_size)[:, index]
            shift = _per_output(old, shift)[index]
        target.copy_(new.view(target.shape))
        if isinstance(bias, Tensor):
            former = old.bias
            assert isinstance(former, Tensor)
            bias.copy_(former.detach().double()[index] + shift)


def _per_output(old: nn.Module, shift: Tensor) -> Tensor:
    """Sum a transposed convolution's shift over what its kernel lays onto one pixel, on average."""
    if not isinstance(old, _ConvTransposeNd):
        return shift
    overlap = math.prod(old.stride)
    return shift.view(old.out_channels, -1).sum(1) / overlap


def _bias(model: nn.Module, name: str) -> Tensor | None:
    bias = getattr(model.get_submodule(name), "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _own_bias(layer: nn.Module) -> Tensor:
    """Return a layer's bias; where it has none it gets one."""
    bias: Tensor | None = getattr(layer, "bias", None)
    if bias is None:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        bias = nn.Parameter(weight.new_zeros(flat_outputs(layer)), weight.requires_grad)
        layer.bias = bias
    return bias


def normed_layers(groups: Sequence[Group]) -> set[str]:
    """Name the layers that a batch norm follows, which is measured anew."""
    return {
        tap.layer
        for group in groups
        for tap in group.taps
        if tap.side == "out" and tap.read_at != tap.layer
    }


def _readers(original: nn.Module, groups: Sequence[Group]) -> list[str]:
    """List the layers that read what may be cut and can be repaired."""
    named = {m.module: None for group in groups for m in group.members if m.side == "in"}
    return [name for name in named if reads(original.get_submodule(name))]


def _lost(original: nn.Module, cut: Sequence[PlannedGroup]) -> dict[str, tuple[set[int], Tensor]]:
    """Return each reading layer's lost input channels, and the outputs that it keeps."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group in cut:
        for member in group.members:
            gone.setdefault((member.module, member.side), set()).update(
                member.positions(group.removed)
            )
    lost = {}
    for (name, side), removed in gone.items():
        if side != "in":
            continue
        module = original.get_submodule(name)
        if not removed or not reads(module) or is_depthwise(module):
            continue
        outputs = flat_outputs(module)
        away = gone.get((name, "out"), set())
        lost[name] = (removed, torch.tensor([u for u in range(outputs) if u not in away]))
    return lost


def flat_outputs(module: nn.Module) -> int:
    """Return how many outputs a layer has."""
    return int(getattr(module, "out_channels", 0) or getattr(module, "out_features", 0))
