"""Which images are explained: drawn while they pass by, so that one pass over the data will do."""

from __future__ import annotations

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

    def offer(self, index: int, stratum: int, image: Tensor) -> None:
        """Show one image; it is copied if it is kept (algorithm R, Vitter 1985)."""
        seen = self._seen[stratum] = self._seen.get(stratum, 0) + 1
        kept = self._kept.setdefault(stratum, [])
        if len(kept) < self._size:
            kept.append(Candidate(index, stratum, image.detach().cpu().clone()))
            return
        place = int(torch.randint(seen, (1,), generator=self._generator))
        if place < self._size:
            kept[place] = Candidate(index, stratum, image.detach().cpu().clone())

    def in_turn(self) -> list[Candidate]:
        """Give what was kept, one of each stratum after the other."""
        strata = [self._kept[stratum] for stratum in sorted(self._kept)]
        longest = max((len(kept) for kept in strata), default=0)
        return [kept[row] for row in range(longest) for kept in strata if row < len(kept)]
