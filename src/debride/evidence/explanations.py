"""How alike two heatmaps are: Spearman rank correlation and overlap of the top tenth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.errors import DebrideError
from debride.evidence.blocks import Rows, dot, in_blocks, stacked
from debride.evidence.ordering import largest, ranked
from debride.relevance.rules import HEATMAPS, RuleSet

Explainer = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, images (B, C, *spatial), targets (B,)) -> relevance like the images.

Targets are classes: a single logit speaks for class 1, and its negative for class 0.
"""


class Spread(TypedDict):
    """Mean, median and tenth percentile over the explained images."""

    mean: float
    median: float
    q10: float


class Explanations(TypedDict):
    """How alike the heatmaps of the two networks are, for the same class of the same image."""

    images: int
    undefined: int
    """Images left out because one of their heatmaps is the same everywhere."""
    method: str
    rules: str
    spearman: Spread
    top10_overlap: Spread


def explainer_of(method: str, rules: str | RuleSet = HEATMAPS) -> Explainer:
    """Give an explainer of the library: input relevance by this method.

    Parameters
    ----------
    method
        A name that `attribute` knows.
    rules
        LRP's rule set, for methods that have one.

    Raises
    ------
    DebrideError
        For a method that nobody registered.
    """
    from debride.relevance.methods import attribute, method_options

    method_options(method)

    def explain(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        relevance: Tensor = attribute(model, images, targets, method=method, rules=rules).input
        return relevance

    return explain


def lrp_explainer(rules: str | RuleSet) -> Explainer:
    """Give LRP's explainer with this rule set."""
    return explainer_of("lrp", rules)


def usual_methods(models: Sequence[nn.Module], image: Tensor) -> tuple[str, ...]:
    """Give the methods compared unasked: LRP, and Grad-CAM where the networks have maps for it.

    Parameters
    ----------
    models
        In evaluation mode.
    image
        (1, C, *spatial), on the networks' device.
    """
    from debride.relevance.cam import last_spatial

    try:
        for model in models:
            last_spatial(model, image)
    except DebrideError:
        return ("lrp",)
    return ("lrp", "gradcam")


def heatmaps(
    model: nn.Module, images: Tensor, targets: Tensor, explain: Explainer, *, batch_size: int = 8
) -> Tensor:
    """Give relevance summed over the channels, (B, *spatial) float32 on the CPU."""
    maps = []
    for begin in range(0, len(images), batch_size):
        some = images[begin : begin + batch_size]
        relevance = explain(model, some, targets[begin : begin + batch_size])
        if relevance.shape != some.shape:
            raise DebrideError(
                f"the explanation has shape {tuple(relevance.shape)} where the images have "
                f"{tuple(some.shape)}: an explainer must give one relevance for each input value"
            )
        maps.append(relevance.detach().sum(dim=1).float().cpu())
    return torch.cat(maps)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Correlate the ranks of each pair of maps.

    Parameters
    ----------
    first, second
        (B, *spatial).

    Returns
    -------
    Tensor
        (B,) float64 within −1 and 1; NaN where a map is the same everywhere.

    Examples
    --------
    >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 9.0]]))
    tensor([1.], dtype=torch.float64)
    """
    products = in_blocks(_rank_products, first.flatten(1), second.flatten(1))
    scale = (products[:, 0] * products[:, 1]).sqrt()
    correlation = (products[:, 2] / scale).clamp(-1, 1)
    return torch.where(scale > 0, correlation, torch.nan)


def top_overlap(first: Tensor, second: Tensor, share: float = 0.1) -> Tensor:
    """Give the share of the most relevant pixels of the first map that the second has too.

    By chance it would be `share`. Of equally relevant pixels the first count.

    Parameters
    ----------
    first, second
        (B, *spatial).
    share
        Which part of the pixels counts as the top.

    Returns
    -------
    Tensor
        (B,) float64 within 0 and 1.

    Examples
    --------
    >>> a = torch.arange(20.0).reshape(1, 4, 5)
    >>> top_overlap(a, a), top_overlap(a, -a)
    (tensor([1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    a, b = first.flatten(1), second.flatten(1)
    count = max(1, round(share * a.shape[1]))
    shared = in_blocks(lambda x, y: (largest(x, count) & largest(y, count)).sum(1), a, b)
    return shared.double() / count


def summarise(
    correlations: Tensor, overlaps: Tensor, *, method: str = "custom", rules: str = ""
) -> Explanations | None:
    """Sum up over images, leaving out those without a correlation; None if none is left."""
    defined = ~correlations.isnan()
    if not defined.any():
        return None
    return Explanations(
        images=int(defined.sum()),
        undefined=int((~defined).sum()),
        method=method,
        rules=rules,
        spearman=_spread(correlations[defined]),
        top10_overlap=_spread(overlaps[defined]),
    )


def _rank_products(first: Rows, second: Rows) -> Rows:
    """Give (B, 3) squared lengths of the ranks about their mean, and the product of the two."""
    mean = (first.shape[1] + 1) / 2
    a, b = ranked(first), ranked(second)
    a -= mean
    b -= mean
    return stacked(dot(a, a), dot(b, b), dot(a, b))


def _spread(values: Tensor) -> Spread:
    array = values.numpy()
    return Spread(
        mean=float(array.mean()),
        median=float(np.median(array)),
        q10=float(np.quantile(array, 0.1)),
    )
