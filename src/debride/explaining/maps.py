"""The maps of one image: prepared, decided, explained by every method that is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.explaining.asking import Ask, Explained, difference
from debride.models.outputs import Task, logits, probabilities
from debride.opening import Network


@dataclass(frozen=True)
class Decision:
    """What the network says of an image, and what is explained.

    Attributes
    ----------
    probabilities : tuple of float
        One a class.
    explained : int
        The class.
    against : int or None
        The class that it is set against.
    """

    probabilities: tuple[float, ...]
    explained: int
    against: int | None = None

    @property
    def predicted(self) -> int:
        """The most probable class."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def goal(self) -> Explained:
        """The target as `debride.attribute` takes it."""
        return self.explained if self.against is None else difference(self.explained, self.against)


@dataclass(frozen=True)
class Map:
    """What one method found for one image.

    Attributes
    ----------
    ask : Ask
    relevance : Tensor
        (C, *spatial) float32 on the CPU, like the prepared image.
    score : float
        The explained output.
    shares : mapping of str to float
    delta : float
    unknown : mapping of str to sequence of str
        As of `debride.relevance.Relevance`, for this image alone.
    """

    ask: Ask
    relevance: Tensor
    score: float
    shares: Mapping[str, float]
    delta: float
    unknown: Mapping[str, Sequence[str]]

    def entry(self, raw: str | None) -> dict[str, Any]:
        """Give what index.json holds of it."""
        return {
            "method": self.ask.method,
            "rules": None if self.ask.rules is None else self.ask.rules.name,
            "options": dict(self.ask.shown),
            "score": self.score,
            "shares": dict(self.shares),
            "delta": self.delta,
            "raw": raw,
            "without_rule": {name: list(places) for name, places in self.unknown.items()},
        }


def decide(
    network: Network, image: Tensor, task: Task, target: int | None, against: int | None
) -> Decision:
    """Run the network on an image (1, C, *spatial) and choose what is explained.

    Without a target it is the most probable class, or where that is the one to set against, the
    next.
    """
    with torch.no_grad():
        found = probabilities(logits(network.model(image)).float(), task)[0].cpu()
    ranked = found.argsort(descending=True).tolist()
    if not bool(torch.isfinite(found).all()):
        raise DebrideError("the network's output is NaN or infinite: look at its weights")
    explained = next(k for k in ranked if k != against) if target is None else target
    return Decision(tuple(found.tolist()), explained, against)


def explain_image(
    network: Network, image: Tensor, asks: Sequence[Ask], decision: Decision, *, strict: bool
) -> list[Map]:
    """Explain one image (1, C, *spatial) by every method.

    One image at a time: its account is then its own, and its map does not depend on which other
    images there are.
    """
    maps = []
    for ask in asks:
        found = ask.of(network.model, image, decision.goal, strict=strict)
        relevance = found.input.detach()[0].float().cpu()
        if not bool(torch.isfinite(relevance).all()):
            raise DebrideError(
                f"the map of {ask.method} holds NaN or infinite values: look at the network's "
                "weights, or give other rules or options"
            )
        score = float(found.output[0])
        maps.append(Map(ask, relevance, score, found.shares, found.delta, found.unknown))
    return maps


def shown_cut(maps: Sequence[Tensor]) -> int | None:
    """Give the slice of volumes (D, H, W) where the maps are largest together, None for (H, W).

    Each map counts alike, whatever its scale.

    Examples
    --------
    >>> one, two = torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)
    >>> one[1, 0, 0], one[2, 0, 0], two[2] = 6.0, 4.0, -0.1
    >>> shown_cut([one, two])
    2
    """
    if maps[0].ndim < 3:
        return None
    total = torch.zeros(maps[0].shape[0], dtype=torch.float64)
    for each in maps:
        profile = each.double().abs().flatten(1).sum(dim=1)
        total += profile / profile.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return int(total.argmax()) if bool(total.any()) else len(total) // 2
