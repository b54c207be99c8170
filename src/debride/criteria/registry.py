"""The criteria that are known, and `score`, which runs one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from debride.criteria.scores import Scores
from debride.data.batches import check_repeatable, unpack
from debride.errors import DebrideError
from debride.models.state import undisturbed
from debride.planning.groups import find_groups
from debride.planning.plan import Group


class Criterion(Protocol):
    """A function from a network and images to one raw score a unit."""

    def __call__(
        self, model: nn.Module, groups: Sequence[Group], data: Iterable[Any], **options: Any
    ) -> Scores:
        """Score every unit of every group; larger is kept longer.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode.
        groups : sequence of Group
            Their `taps` name the layers to score.
        data : iterable
            Batches of reference images.
        **options
            What the user chose: ``rules``, ``seed``, ``device``.
        """
        ...


_CRITERIA: dict[str, Criterion] = {}


def register_criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Register a criterion under a name that ``--criterion`` takes."""

    def add(criterion: Criterion) -> Criterion:
        _CRITERIA[name] = criterion
        return criterion

    return add


def criterion_names() -> tuple[str, ...]:
    """Return the names that `score` knows."""
    return tuple(sorted(_CRITERIA))


def check_criterion(name: str) -> None:
    """Raise a sentence that names what is close, unless the criterion is known."""
    if name not in _CRITERIA:
        close = difflib.get_close_matches(name, _CRITERIA, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(criterion_names())}"
        raise DebrideError(f"no criterion '{name}': {hint}")


def score(
    model: nn.Module,
    data: Iterable[Any],
    *,
    criterion: str = "lrp",
    rules: str = "epsilon",
    groups: Sequence[Group] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Scores:
    """Score every removable unit of a network over reference images.

    Parameters
    ----------
    model : nn.Module
        Comes back as it was.
    data : iterable
        Re-iterable batches: (images, labels), or dicts with "image" and "label". Without labels
        the predicted class is explained.
    criterion : str
        A registered criterion: ``"lrp"``, ``"magnitude"``, ``"random"``.
    rules : str
        LRP's rule set.
    groups : sequence of Group, optional
        What to score; found by tracing the network where absent.
    seed : int
        For criteria that draw.
    device : str or torch.device, optional
        Where the images go; the network's own by default.

    Raises
    ------
    DebrideError
        For an unknown criterion, or no images.
    """
    check_criterion(criterion)
    if groups is None:
        check_repeatable(data=data)
    device = next((p.device for p in model.parameters()), "cpu") if device is None else device
    if groups is None:
        for batch in data:
            groups = find_groups(model, unpack(batch)[0].to(device)).groups
            break
        else:
            raise DebrideError("the reference data are empty: give at least one image")
    with undisturbed(model):
        model.eval()
        return _CRITERIA[criterion](model, groups, data, rules=rules, seed=seed, device=device)
