"""Which images are explained: drawn while they pass by, so that one pass over the data will do."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """One image that was kept while the data went by."""

    index: int
    stratum: int
    image: Tensor
    """(C, *spatial), on the CPU."""
    mask: Tensor | None = None
    """(*spatial), not zero on the lesion; None where masks are not known."""


class Reservoir:
    """A seeded sample of each stratum, uniform however many images pass by.

    Parameters
    ----------
    size
        Images kept of each stratum.
    seed
        Of the draw.

    Examples
    --------
    >>> reservoir = Reservoir(2, seed=0)
    >>> for i in range(100):
    ...     reservoir.offer(i, stratum=i % 3, image=torch.zeros(1))
    >>> sorted(c.stratum for c in reservoir.in_turn())
    [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seen: dict[int, int] = {}
        self._kept: dict[int, list[Candidate]] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def offer(self, index: int, stratum: int, image: Tensor, mask: Tensor | None = None) -> None:
        """Show one image; it is copied if it is kept (algorithm R, Vitter 1985)."""
        seen = self._seen[stratum] = self._seen.get(stratum, 0) + 1
        kept = self._kept.setdefault(stratum, [])
        if len(kept) < self._size:
            kept.append(_copied(index, stratum, image, mask))
            return
        place = int(torch.randint(seen, (1,), generator=self._generator))
        if place < self._size:
            kept[place] = _copied(index, stratum, image, mask)

    def in_turn(self) -> list[Candidate]:
        """Give what was kept, one of each stratum after the other."""
        strata = [self._kept[stratum] for stratum in sorted(self._kept)]
        longest = max((len(kept) for kept in strata), default=0)
        return [kept[row] for row in range(longest) for kept in strata if row < len(kept)]


class Surest:
    """The images with the highest score, however many pass by; equal ones as they came.

    Parameters
    ----------
    size
        Images kept.

    Examples
    --------
    >>> surest = Surest(2)
    >>> for i, score in enumerate([0.5, 0.9, 0.7]):
    ...     surest.offer(i, score, torch.zeros(1))
    >>> [candidate.index for candidate in surest.in_turn()]
    [1, 2]
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[float, int, Candidate]] = []
        self._seen = 0

    def offer(self, index: int, score: float, image: Tensor, mask: Tensor | None = None) -> None:
        """Show one image; it is copied if it is kept."""
        self._seen += 1
        if len(self._kept) == self._size and score <= self._kept[0][0]:
            return
        heapq.heappush(self._kept, (score, -self._seen, _copied(index, 0, image, mask)))
        if len(self._kept) > self._size:
            heapq.heappop(self._kept)

    def in_turn(self) -> list[Candidate]:
        """Give what was kept, the highest score first."""
        return [candidate for *_, candidate in sorted(self._kept, reverse=True)]


def _copied(index: int, stratum: int, image: Tensor, mask: Tensor | None) -> Candidate:
    kept = image.detach().cpu().clone()
    return Candidate(index, stratum, kept, None if mask is None else mask.detach().cpu().clone())
