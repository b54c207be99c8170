"""From values at the taps to one sum a unit, over all images: the one place that reduces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from debride.criteria.scores import Scores
from debride.data.batches import unpack
from debride.errors import DebrideError
from debride.planning.layers import width
from debride.planning.plan import Group

AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "positive": torch.relu,
    "signed": torch.Tensor.clone,
    "square": torch.square,
}
"""What is made of a unit's value in one image (a neuron's: at one token) before it is summed."""

SPREAD = "spread"
"""Their standard deviation instead: what is the same in all images can be given by a bias."""

Aggregate = Literal["abs", "positive", "signed", "square", "spread"]
Count = Annotated[int, Field(ge=1)]

Visit = Callable[[str, Tensor], None]
"""(where a tap is read, value of each element): what a sweep hands over."""
Sweep = Callable[[Tensor, Tensor | None, tuple[str, ...], Visit], Mapping[str, list[str]]]
"""(images, classes or table of labels, taps, visit): one batch; returns what had no rule."""


def sum_over_images(
    name: str,
    model: nn.Module,
    groups: Sequence[Group],
    data: Iterable[Any],
    sweep: Sweep,
    *,
    aggregate: str = "abs",
    mean: bool = False,
    device: str | torch.device = "cpu",
) -> Scores:
    """Run a sweep over every batch and add up what it finds at the taps, unit by unit.

    Parameters
    ----------
    name : str
        The criterion's, for `Scores`.
    sweep : callable
        Gives `visit` the value of every element at a tap: a relevance, an activation.
    aggregate : str
        ``"abs"``, ``"positive"``, ``"signed"`` or ``"square"``: see `per_unit`; ``"spread"``: the
        standard deviation over images, times their number. Spreads of shards add up to the
        spread within shards.
    mean : bool
        Take the mean over an image's pixels or tokens instead of the sum.

    Raises
    ------
    DebrideError
        For no images, a single one where their spread is asked for, or an unknown aggregate.
    """
    if aggregate not in (*AGGREGATES, SPREAD):
        names = ", ".join((*AGGREGATES, SPREAD))
        raise DebrideError(f"aggregate='{aggregate}': give one of {names}")
    wanted = ("signed", "square") if aggregate == SPREAD else (aggregate,)
    layers = {tap.read_at: tap for group in groups for tap in group.taps}
    modules = dict(model.named_modules())
    sums: dict[str, Tensor] = {}
    summed: dict[str, int] = {}
    unknown: dict[str, list[str]] = {}
    count = 0

    for batch in data:
        images, labels = unpack(batch)
        images = images.to(device)

        def visit(tap: str, value: Tensor, batch: int = len(images)) -> None:
            neurons = layers[tap].side == "in" or isinstance(modules[tap], nn.Linear)
            found = torch.stack([per_unit(value, neurons=neurons, aggregate=w) for w in wanted])
            units = found.shape[1]
            if mean:
                found = found * (batch * units / value.numel())
            layer = layers[tap].layer
            sums[layer] = sums[layer] + found if layer in sums else found
            summed[layer] = summed.get(layer, 0) + (value.numel() // units if neurons else batch)

        unknown.update(sweep(images, _labels(labels), tuple(layers), visit))
        count += len(images)
    if count == 0:
        raise DebrideError("the reference data are empty: give at least one image")
    if aggregate == SPREAD and count < 2:
        raise DebrideError("one image has no spread: give two at least, or another aggregate")
    scores = {layer: _total(found, summed[layer]).cpu() for layer, found in sums.items()}
    for read in layers.values():
        units = width(modules[read.layer], read.side)
        scores.setdefault(read.layer, torch.zeros(units, dtype=torch.float64))
    return Scores(name, count, scores, unknown)


def _total(found: Tensor, count: int) -> Tensor:
    """Return sums (1, C) as they are; of sums and squares (2, C) the spread times `count`."""
    if len(found) == 1:
        return found[0]
    return (count * found[1] - found[0].square()).clamp(min=0).sqrt()


def per_unit(value: Tensor, *, neurons: bool, aggregate: str = "abs") -> Tensor:
    """Reduce the values of a tap to one for each unit.

    Parameters
    ----------
    value : Tensor
        (B, C, *spatial) of channels, summed over space and then aggregated; (B, *tokens, C) of
        neurons, aggregated at each token. Then both are summed over images.

    Returns
    -------
    Tensor
        (C,) float64.

    Examples
    --------
    >>> value = torch.tensor([[[1.0, -3.0], [2.0, 2.0]]])  # one image
    >>> per_unit(value, neurons=False).tolist(), per_unit(value, neurons=True).tolist()
    ([2.0, 4.0], [3.0, 5.0])
    """
    if not neurons:
        value = value.flatten(2).sum(2) if value.ndim > 2 else value
    return AGGREGATES[aggregate](value).flatten(0, -2).sum(0, dtype=torch.float64)


def _labels(labels: Tensor | None) -> Tensor | None:
    """Return classes (B,), or a table (B, K) of the labels that hold; None where there are none."""
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels is not None and labels.ndim == 1 and bool((labels == labels.long()).all()):
        return labels.long()
    return labels
