"""Reconstruction: front to back, each layer once more on what the cut network itself reads."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.models.attention import opened
from debride.models.state import named_modules, owners, undisturbed
from debride.planning.plan import Group, PlannedGroup, removed_positions
from debride.recovery.batchnorm import recalibrate
from debride.recovery.least_squares import least_squares, normed_layers
from debride.recovery.moments import POSITIONS, drawn, patches_of, solvable, width
from debride.recovery.registry import Recovery, register_recovery

RIDGE = 3e-2
"""Of the mean square of what a layer reads: how firmly its weights stay where they were."""

IMAGES = 1024
"""Images of the sample at most."""

PIXELS = 2**23
"""Pixels of the sample at most: it goes through the network as one batch."""

NEAR = 0.02
"""Relative error up to which a layer counts as computing what its weights say: bfloat16's and
TF32's are within it."""

ROWS = 4096
"""Patches wanted of each layer at least; of a wider one, two for each number in a patch, of a
grouped one, whose patches are narrow and many, a quarter."""


@register_recovery("reconstruction")
def reconstruction(
    original: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    *,
    device: str | torch.device,
    ridge: float = RIDGE,
) -> Recovery:
    """Refit every layer to what the original's said, front to back, on what it now reads.

    `least_squares` looks at the original's inputs alone. In the cut network each layer reads what
    the layers before it made of the images, and small errors add up with depth. Here a sample of
    images runs through the cut network once; each layer, when its turn comes, gets the weights
    W + R X'ᵀ (X' X'ᵀ + λI)⁻¹, where X' is what it reads and R = Y − W X' what it would miss of the
    original's output Y on the same images, and the run goes on with these. Each batch norm's
    statistics are taken from the sample on the way, and measured anew where there are more images
    than the sample has. Transposed convolutions are repaired by `least_squares`; layers that do not
    compute what their weights say, because they standardise them or pad on their own, are left, as
    are layers whose weights others share or that make them of other parameters.

    The sample is drawn from all images of `data` that have the size of the first, always the same.

    Parameters are those of `least_squares`; `ridge` is λ as a fraction of the mean square of X'.

    References
    ----------
    Zhang et al. 2015, "Accelerating Very Deep Convolutional Networks for Classification and
    Detection", section 3.3 (asymmetric reconstruction), with a ridge.
    """
    transposed = (
        least_squares(original, groups, data, device=device, kinds=_ConvTransposeNd)
        if any(isinstance(module, _ConvTransposeNd) for module in original.modules())
        else None
    )
    images, every = _sample(data)
    images = images.to(device)
    said = _outputs(original, images)
    said = {name: said[name] for name in said.keys() & _own_weights(original)}
    again = _norms_of_several(original, images)
    normed = normed_layers(groups)

    def repair(model: nn.Module, cut: Sequence[PlannedGroup]) -> None:
        if transposed is not None:
            transposed(model, cut)
        gone = removed_positions(cut)

        def refit(name: str, layer: nn.Module, seen: Tensor) -> None:
            outputs = said[name]
            away = gone.get((name, "out"))
            if away:
                rows = [row for row in range(outputs.shape[1]) if row not in away]
                outputs = outputs[:, torch.tensor(rows, device=outputs.device)]
            patches = patches_of(layer, seen, _places(name, original.get_submodule(name), seen))
            fit(layer, patches, outputs, ridge, centred=name in normed)

        _front_to_back(model, images, set(said), again, refit)
        if again or not every:
            recalibrate(model, data, device=device)

    return repair


def fit(
    layer: nn.Module, patches: Tensor, outputs: Tensor, ridge: float, *, centred: bool = False
) -> None:
    """Move a layer's weights, and its bias where it has one, towards given outputs, in place.

    Parameters
    ----------
    layer : nn.Module
        A convolution, grouped or not, or a linear layer.
    patches : Tensor
        (N, D), what it reads; of a grouped convolution the groups side by side.
    outputs : Tensor
        (N, O), what it should say.
    ridge : float
        How firmly its weights stay, as a fraction of the patches' mean square.
    centred : bool
        Whether means need not fit, though there is no bias: a batch norm follows.

    Examples
    --------
    >>> layer, patches = nn.Linear(2, 1), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> fit(layer, patches, torch.tensor([[1.0], [3.0], [2.0]]), 1e-6)
    >>> [round(value, 3) for value in (*layer.weight[0].tolist(), layer.bias.item())]
    [2.0, 1.0, 1.0]
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    old, x, y = (
        part.to(solvable(part.dtype))
        for part in (
            _by_part(layer, weight),
            _rows_by_part(layer, patches),
            _rows_by_part(layer, outputs),
        )
    )
    means = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    if centred or isinstance(bias, Tensor):
        x, y = x - means[0], y - means[1]
    missed = y - x @ old.mT
    if not bool(torch.isfinite(missed).all()):
        return  # a network that overflows is judged by its outputs, not mended
    tiny = torch.finfo(x.dtype).tiny
    firm = ridge * x.square().mean((1, 2)).clamp(min=tiny) * len(patches)
    if x.shape[2] <= x.shape[1]:
        moved = _solve(x.mT @ x, x.mT @ missed, firm).mT
    else:  # fewer patches than numbers in one: the same by way of their products
        moved = _solve(x @ x.mT, missed, firm).mT @ x
    new = old + moved
    with torch.no_grad():
        weight.copy_(new.reshape(weight.shape))
        if isinstance(bias, Tensor):
            bias.copy_((means[1] - means[0] @ new.mT).flatten())


def _solve(products: Tensor, right: Tensor, firm: Tensor) -> Tensor:
    products.diagonal(dim1=-2, dim2=-1).add_(firm[:, None])
    factor, failed = torch.linalg.cholesky_ex(products)
    if not failed.any():
        return torch.cholesky_solve(right, factor)
    factor = torch.linalg.cholesky(products.double())  # nearly singular for the precision
    return torch.cholesky_solve(right.double(), factor).to(right.dtype)


def _sample(data: Iterable[Any]) -> tuple[Tensor, bool]:
    """Draw as many images of one size as may run in one batch, and tell whether these are all."""
    generator = torch.Generator().manual_seed(0)
    kept: list[Tensor] = []
    seen, wanted, all_fit = 0, IMAGES, True
    for image in (image for batch in data for image in unpack(batch)[0]):
        if not kept:
            wanted = max(1, min(IMAGES, PIXELS // max(1, math.prod(image.shape[1:]))))
        elif image.shape != kept[0].shape:
            all_fit = False
            continue
        # each of those seen so far is kept with the same chance (Vitter 1985, algorithm R)
        place = seen if seen < wanted else int(torch.randint(seen + 1, (), generator=generator))
        if place < wanted:
            kept[place : place + 1] = [image.clone()]
        seen += 1
    if not kept:
        raise DebrideError("repair needs images: give training images")
    return torch.stack(kept), all_fit and seen <= wanted


def _outputs(original: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return (N, O) of what each layer that ran once says at the places drawn."""
    found: dict[str, list[Tensor | None]] = {}

    def watch(name: str, layer: nn.Linear | _ConvNd, seen: Tensor, output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            fits = output.ndim > 1
        else:
            fits = _pads_as_said(layer, seen, output)
        if not fits:
            found.setdefault(name, []).append(None)
            return
        if isinstance(layer, nn.Linear):
            rows = output.detach().reshape(output.shape[0], -1, output.shape[-1])
        else:
            rows = output.detach().flatten(2).transpose(1, 2)
        places = _places(name, layer, rows)
        chosen = rows[:, places(rows.shape[1]).to(rows.device)].flatten(0, 1)
        patches = patches_of(layer, seen.detach(), _places(name, layer, rows))
        found.setdefault(name, []).append(chosen if _says(layer, patches, chosen) else None)

    handles = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: watch(name, layer, inputs[0], output)
        )
        for name, layer in named_modules(original)
        if isinstance(layer, nn.Linear | _ConvNd) and not isinstance(layer, _ConvTransposeNd)
    ]  # fmt: skip
    _run(original, images, handles)
    once = {name: outputs[0] for name, outputs in found.items() if len(outputs) == 1}
    return {name: outputs for name, outputs in once.items() if outputs is not None}


def _own_weights(model: nn.Module) -> set[str]:
    """Name the modules whose weight is a parameter of theirs alone."""
    found = owners(model)
    return {
        name
        for name, module in named_modules(model)
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
        and len(found[id(weight)]) == 1
    }


def _norms_of_several(model: nn.Module, images: Tensor) -> set[str]:
    """Name the batch norms that run more than once: one call does not have their statistics."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda norm, _, name=name: calls.update([name]))
        for name, module in _norms(model)
    ]
    _run(model, images[:1], handles)
    return {name for name, count in calls.items() if count > 1}


def _norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module)
        for name, module in named_modules(model)
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


def _says(layer: nn.Module, patches: Tensor, outputs: Tensor) -> bool:
    """Tell whether outputs are what a layer's weights make of patches, up to its precision."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if weight.shape[0] != outputs.shape[1]:
        return False
    old, x = _by_part(layer, weight), _rows_by_part(layer, patches)
    expected = (x @ old.mT).transpose(0, 1).flatten(1)
    if isinstance(bias, Tensor):
        expected = expected + bias
    return bool((expected - outputs).norm() <= NEAR * outputs.norm())


def _pads_as_said(layer: _ConvNd, seen: Tensor, output: Tensor) -> bool:
    """Tell whether a convolution of a batch has the outputs that its settings give."""
    spatial = len(layer.kernel_size)
    if output.ndim != spatial + 2:
        return False
    pads = list(reversed(layer._reversed_padding_repeated_twice))
    around = [pads[2 * dim] + pads[2 * dim + 1] for dim in range(spatial)]
    steps = zip(
        seen.shape[-spatial:], around, layer.kernel_size, layer.dilation, layer.stride, strict=True
    )
    sizes = [(n + pad - dilation * (k - 1) - 1) // step + 1 for n, pad, k, dilation, step in steps]
    return sizes == list(output.shape[-spatial:])


def _by_part(layer: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight as (groups, outputs of each, patch)."""
    parts = int(getattr(layer, "groups", 1))
    return weight.detach().reshape(parts, weight.shape[0] // parts, -1)


def _rows_by_part(layer: nn.Module, rows: Tensor) -> Tensor:
    """Return rows (N, numbers) as (groups, N, numbers of each)."""
    return rows.reshape(len(rows), int(getattr(layer, "groups", 1)), -1).transpose(0, 1)


def _front_to_back(
    model: nn.Module,
    images: Tensor,
    names: set[str],
    left: set[str],
    refit: Callable[[str, nn.Module, Tensor], None],
) -> None:
    """Run the sample through a network, and let every layer be refitted before it runs.

    Batch norms are measured on the way, but for those that are `left`.
    """
    handles = [
        module.register_forward_pre_hook(
            lambda layer, inputs, name=name: refit(name, layer, inputs[0])
        )
        for name, module in named_modules(model)
        if name in names
    ]
    handles += [
        module.register_forward_pre_hook(lambda norm, inputs: _measure(norm, inputs[0]))
        for name, module in _norms(model)
        if name not in left
    ]
    _run(model, images, handles)


def _measure(norm: nn.Module, seen: Tensor) -> None:
    """Take a batch norm's statistics from one batch."""
    axes = [0, *range(2, seen.ndim)]
    if seen.numel() == seen.shape[1]:
        return  # one value a channel has no variance
    norm.get_buffer("running_mean").copy_(seen.mean(axes))
    norm.get_buffer("running_var").copy_(seen.var(axes))


def _run(model: nn.Module, images: Tensor, handles: Sequence[Any]) -> None:
    try:
        # opened, attention calls the layer that reads its heads, and the hook sees it
        with undisturbed(model), opened(model), torch.no_grad():
            model.eval()
            model(images)
    finally:
        for handle in handles:
            handle.remove()


def _places(name: str, layer: nn.Module, rows: Tensor) -> Callable[[int], Tensor]:
    """Draw places of each row of a layer's batch, the same of the original and of the cut network.

    What is a batch to a layer may be windows, slices or tokens to the network.
    """
    parts = int(getattr(layer, "groups", 1))
    wanted = max(2 * width(layer), ROWS if parts == 1 else ROWS // 4)
    most = min(math.ceil(wanted / len(rows)), POSITIONS)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return lambda count: drawn(count, most, generator)
