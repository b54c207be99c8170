"""The strategies that are known, and what they see of a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from debride.errors import DebrideError, hint

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Looking(Protocol):
    """What a network says of all training images; it is run when this is first asked for."""

    @property
    def probabilities(self) -> Floats:
        """(N, K)."""

    @property
    def features(self) -> Floats:
        """(N, D)."""


@dataclass(frozen=True)
class Members:
    """The training images of one class.

    Attributes
    ----------
    positions : ndarray
        (M,) where they stand among all training images.
    label : int
        The class.
    groups : sequence of str or None
        (M,) patient, lesion or site of each, where that is known.
    seen : Looking
    """

    positions: Integers
    label: int
    groups: Sequence[str | None]
    seen: Looking

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def confidence(self) -> Floats:
        """(M,) the probability that the network gives each image's own class."""
        found: Floats = self.seen.probabilities[self.positions, self.label]
        return found

    @property
    def features(self) -> Floats:
        """(M, D) what the network's last layer reads, averaged over places."""
        found: Floats = self.seen.features[self.positions]
        return found


Strategy = Callable[[Members, int, np.random.Generator], Integers]
"""(members, count, generator) → places among the members, `count` or fewer, none twice."""

_STRATEGIES: dict[str, Strategy] = {}


def register_strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Register a `Strategy` under a name that ``--reference-strategy`` takes."""

    def add(strategy: Strategy) -> Strategy:
        _STRATEGIES[name] = strategy
        return strategy

    return add


def strategy_names() -> tuple[str, ...]:
    """Return the names that `choose` knows.

    Examples
    --------
    >>> import debride.reference
    >>> strategy_names()
    ('by_group', 'clustered', 'least_confident', 'most_confident', 'prototypical', 'random')
    """
    return tuple(sorted(_STRATEGIES))


def strategy_of(name: str) -> Strategy:
    """Return the strategy of a name; dashes count as underscores.

    Raises
    ------
    DebrideError
        For a name that is unknown.
    """
    plain = name.replace("-", "_")
    if plain not in _STRATEGIES:
        raise DebrideError(f"no reference strategy '{name}': {hint(plain, strategy_names())}")
    return _STRATEGIES[plain]


def check_strategy(name: str) -> None:
    """Raise a sentence that names what is close, unless the strategy is known."""
    strategy_of(name)
