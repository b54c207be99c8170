"""Labels: which unit stands at which position of a tensor, and which units must go together."""

from __future__ import annotations

import torch
from torch import Tensor

FIXED = 0
"""The label of positions that no unit stands at: images, constants, what is left alone."""


class Units:
    """Sets of labels that go together; a set may be left alone, with a reason.

    Examples
    --------
    >>> units = Units()
    >>> first, second = units.new(3), units.new(3)
    >>> units.unite(first, second)
    >>> units.find(int(first[0])) == units.find(int(second[0]))
    True
    >>> units.leave(second[2:], "told to")
    >>> [units.why_left(int(label)) for label in first]
    [None, None, 'told to']
    """

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._reasons: dict[int, str] = {FIXED: ""}

    def new(self, count: int) -> Tensor:
        """Return `count` new labels, each a set of its own."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def find(self, label: int) -> int:
        """Return the label that stands for the whole set."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def unite(self, first: Tensor, second: Tensor, reason: str = "") -> None:
        """Put labels at the same positions together; one beside none is left alone."""
        pairs = torch.stack([first + 0 * second, second + 0 * first]).flatten(1)  # broadcast
        for one, other in torch.unique(pairs, dim=1).T.tolist():
            if one == other:
                continue
            if FIXED in (one, other):
                self._leave(max(one, other), reason or "joined with what is left alone")
                continue
            one, other = self.find(one), self.find(other)
            if one != other:
                self._parent[other] = one
                if other in self._reasons:
                    self._leave(one, self._reasons[other])

    def leave(self, labels: Tensor, reason: str) -> None:
        """Leave every set with one of these labels alone; the first reason stays."""
        for label in torch.unique(labels).tolist():
            self._leave(label, reason)

    def _leave(self, label: int, reason: str) -> None:
        root = self.find(label)
        if not self._reasons.get(root):
            self._reasons[root] = reason if root != FIXED else ""

    def why_left(self, label: int) -> str | None:
        """Return why a label's set is left alone, or None where it may be cut."""
        return self._reasons.get(self.find(label))


def compact(labels: Tensor) -> Tensor | None:
    """Return labels with size 1 in every dimension along which they are all the same.

    None where no position has a label.
    """
    for dim in range(labels.ndim):
        first = labels.narrow(dim, 0, min(1, labels.shape[dim]))
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return labels if bool(labels.any()) else None


def varying(labels: Tensor) -> list[int]:
    """Return the dimensions along which compact labels differ."""
    return [dim for dim, size in enumerate(labels.shape) if size > 1]
