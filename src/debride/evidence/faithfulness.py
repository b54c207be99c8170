"""Whether a heatmap names what its network rests on: deletion and insertion (Petsiuk et al. 2018).

Pixels are taken away, or put in, from the most relevant on, and the probability of the explained
class is watched. The area under that curve is small for a good map where pixels go, and large
where they come.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from debride.evidence.likeness import Quantiles, quantiles
from debride.evidence.ordering import places
from debride.evidence.state import at_once
from debride.models.outputs import Task, logits, probabilities

STEPS = 16
"""Equal parts that the pixels of an image go or come in."""
BLUR = 0.1
"""Standard deviation of the blur that insertion begins with, as a share of the shorter side."""


class Faithfulness(TypedDict):
    """Deletion and insertion of one network's own heatmaps."""

    deletion: list[float]
    """Area under the curve, image by image: less is better."""
    insertion: list[float]
    """The same: more is better."""
    deletion_quantiles: Quantiles
    insertion_quantiles: Quantiles
    deletion_curve: list[float]
    """Mean probability of the explained class after each step, from the whole image on."""
    insertion_curve: list[float]
    """The same, from the blurred image on."""


class FaithfulnessPair(TypedDict):
    """Both networks, on the same images and for the same classes."""

    images: int
    steps: int
    original: Faithfulness | None
    model: Faithfulness


def faithfulness(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    task: Task,
    *,
    steps: int = STEPS,
    batch: int | None = None,
) -> Faithfulness:
    """Measure deletion and insertion of a network's heatmaps.

    What goes is replaced by the image's mean colour; insertion begins with the image blurred
    until no structure is left, as in the paper: a flat beginning would have an edge around every
    pixel that comes.

    Parameters
    ----------
    model
        In evaluation mode.
    images
        (B, C, *spatial), on the network's device.
    maps
        (B, *spatial) relevance.
    targets
        (B,) the explained classes.
    task
        What the outputs mean.
    steps
        Parts that the pixels go and come in.
    batch
        Images that go through the network at once; by default what memory allows.

    References
    ----------
    Petsiuk, Das and Saenko 2018, RISE, arXiv 1806.07421, section 4.3.

    Examples
    --------
    >>> first = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).eval()
    >>> _ = first[1].weight.data.zero_()[1, :4].fill_(0.3)  # class 1 by the upper row
    >>> image, row = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    >>> image[..., 0, :], row[0, 0] = 2.0, 1.0
    >>> both = [faithfulness(first, image, m, torch.tensor([1]), "multiclass") for m in (row, -row)]
    >>> both[0]["deletion"] < both[1]["deletion"], both[0]["insertion"] > both[1]["insertion"]
    (True, True)
    """
    batch = batch or at_once(model, images)
    curve = _watched(model, images, maps, targets, task, steps, batch)
    before, after = curve[:, : steps + 1], curve[:, steps:]
    deletion, insertion = (torch.trapezoid(some, dx=1 / steps, dim=1) for some in (after, before))
    of_deletion, of_insertion = quantiles(deletion), quantiles(insertion)
    assert of_deletion is not None
    assert of_insertion is not None
    return Faithfulness(
        deletion=deletion.tolist(),
        insertion=insertion.tolist(),
        deletion_quantiles=of_deletion,
        insertion_quantiles=of_insertion,
        deletion_curve=after.mean(0).tolist(),
        insertion_curve=before.mean(0).tolist(),
    )


def _watched(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets: Tensor,
    task: Task,
    steps: int,
    batch: int,
) -> Tensor:
    """Give (B, 2 steps + 1) probabilities on the way from the blurred image to the mean.

    The whole image is in the middle, the last step of insertion and the first of deletion.
    """
    axes = list(range(2, images.ndim))
    ways = torch.stack(
        [_blurred(images), images, images.mean(axes, keepdim=True).expand_as(images)]
    )
    rank = places(-maps).to(images.device).reshape(len(maps), 1, *maps.shape[1:])
    counts = torch.linspace(0, rank[0].numel(), steps + 1, device=images.device).round()
    pairs = torch.cartesian_prod(torch.arange(len(images)), torch.arange(2 * steps + 1))
    found = []
    for image, step in (part.to(images.device).T for part in torch.split(pairs, batch)):
        half = (step > steps).long()
        gone = rank[image] < counts[step - steps * half].reshape(-1, *[1] * (images.ndim - 1))
        with torch.no_grad():
            outputs = logits(model(torch.where(gone, ways[half + 1, image], ways[half, image])))
        chosen = probabilities(outputs.float(), task).gather(1, targets.to(image)[image, None])
        found.append(chosen[:, 0].double().cpu())
    return torch.cat(found).reshape(len(images), -1)


def _blurred(images: Tensor) -> Tensor:
    from monai.networks.layers import GaussianFilter

    sigma = BLUR * min(images.shape[-2:])
    blurred: Tensor = GaussianFilter(images.ndim - 2, sigma)(images)
    return blurred
