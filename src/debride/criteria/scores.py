"""Scores: one number a unit, as raw sums that shards can add up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from debride.errors import DebrideError


@dataclass(frozen=True)
class Scores:
    """Raw scores of the channels or neurons of each tapped layer, summed over images.

    Attributes
    ----------
    criterion : str
    count : int
        Images that were summed over.
    values : mapping of str to Tensor
        For the name of each producing layer: (width,) float64 sums. Every normalisation happens
        in planning, so the scores of two shards add up to those of all images.
    unknown : mapping of str to list of str
        Operators without a relevance rule and the modules that they stand in.

    Examples
    --------
    >>> one = Scores("lrp", 2, {"conv": torch.tensor([1.0, 3.0], dtype=torch.float64)})
    >>> (one + one).mean()["conv"].tolist()
    [0.5, 1.5]
    """

    criterion: str
    count: int
    values: Mapping[str, Tensor]
    unknown: Mapping[str, list[str]] = field(default_factory=dict)

    def __add__(self, other: Scores) -> Scores:
        if self.criterion != other.criterion or self.values.keys() != other.values.keys():
            raise DebrideError("only scores of the same criterion and network can be added")
        return Scores(
            self.criterion,
            self.count + other.count,
            {name: value + other.values[name] for name, value in self.values.items()},
            {**self.unknown, **other.unknown},
        )

    def mean(self) -> dict[str, Tensor]:
        """Return the scores per image."""
        return {name: value / max(self.count, 1) for name, value in self.values.items()}

    def to_json(self) -> str:
        """Write the scores as JSON text."""
        return json.dumps(
            {
                "criterion": self.criterion,
                "count": self.count,
                "values": {name: value.tolist() for name, value in self.values.items()},
                "unknown": dict(self.unknown),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Scores:
        """Read what `to_json` wrote."""
        try:
            data = json.loads(text)
            values = {
                str(name): torch.tensor(value, dtype=torch.float64)
                for name, value in data["values"].items()
            }
            return cls(str(data["criterion"]), int(data["count"]), values, data["unknown"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DebrideError(f"the scores are damaged: {error}") from error
