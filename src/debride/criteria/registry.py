"""The criteria that are known, and `score`, which runs one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, get_type_hints

import torch
from torch import nn

from debride.criteria.scores import Scores
from debride.data.batches import check_repeatable, unpack
from debride.errors import DebrideError, hint
from debride.models.state import undisturbed
from debride.planning.groups import find_groups
from debride.planning.plan import Group


class Criterion(Protocol):
    """A function from a network and images to one raw score a unit.

    Its keyword-only parameters are its options: `score` hands on what they name.
    """

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
            What it asks for of ``rules``, ``seed``, ``device``, and its own.
        """
        ...


COMMON = ("rules", "seed", "device")
"""What `score` gives to every criterion that asks for it."""

_CRITERIA: dict[str, Callable[..., Scores]] = {}


def register_criterion(
    name: str,
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register a `Criterion` under a name that ``--criterion`` takes."""

    def add(criterion: Callable[..., Scores]) -> Callable[..., Scores]:
        _CRITERIA[name] = criterion
        return criterion

    return add


def criterion_names() -> tuple[str, ...]:
    """Return the names that `score` knows."""
    return tuple(sorted(_CRITERIA))


def criterion_options(name: str) -> dict[str, Any] | None:
    """Return the options of a criterion's own and their types; None where it takes any.

    Raises
    ------
    DebrideError
        For a criterion that nobody registered.

    Examples
    --------
    >>> list(criterion_options("ig")), list(criterion_options("magnitude"))
    (['n_steps', 'aggregate'], [])
    """
    check_criterion(name)
    run = _CRITERIA[_plain(name)]
    parameters = inspect.signature(run).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    types = get_type_hints(run, include_extras=True)
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in COMMON]
    return {name: types.get(name, Any) for name in names}


def with_defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a criterion's options, those that are not given as they are by default.

    Examples
    --------
    >>> with_defaults("ig", {"n_steps": 16})
    {'n_steps': 16, 'aggregate': 'abs'}
    """
    parameters = inspect.signature(_CRITERIA[_plain(name)]).parameters
    known = criterion_options(name) or {}
    defaults = {key: parameters[key].default for key in known}
    plain = {key: value for key, value in defaults.items() if isinstance(value, str | int | float)}
    return {**plain, **options}


def check_criterion(name: str, options: Iterable[str] = ()) -> None:
    """Raise a sentence that names what is close, unless the criterion and its options are known."""
    if _plain(name) not in _CRITERIA:
        raise DebrideError(f"no criterion '{name}': {hint(_plain(name), criterion_names())}")
    for option in options:
        known = criterion_options(name)
        if known is not None and option not in known:
            raise DebrideError(
                f"the criterion '{_plain(name)}' has no option '{option}': {hint(option, known)}"
            )


def _plain(name: str) -> str:
    return name.replace("-", "_")


def score(
    model: nn.Module,
    data: Iterable[Any],
    *,
    criterion: str = "lrp",
    rules: str = "epsilon",
    groups: Sequence[Group] | None = None,
    residual_width: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    **options: Any,
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
        A registered criterion such as ``"lrp"``, ``"ig"``, ``"taylor"`` or ``"magnitude"``, with
        underscores or hyphens; see `criterion_names`.
    rules : str
        LRP's rule set.
    groups : sequence of Group, optional
        What to score; found by tracing the network where absent.
    residual_width : bool
        Score the channels of residual streams too, those of transformers and ConvNeXt.
    seed : int
        For criteria that draw.
    device : str or torch.device, optional
        Where the images go; the network's own by default.
    **options
        The criterion's own: ``aggregate`` of the criteria from relevance and of ``"taylor"``
        (``"abs"``, ``"positive"``, ``"signed"``, ``"square"``, ``"spread"``), ``target`` of
        ``"lrp"`` (``"odds"``, ``"class"``), ``n_steps`` of ``"ig"``, ``probes`` of ``"hessian"``.

    Raises
    ------
    DebrideError
        For an unknown criterion or option, or no images.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    >>> found = score(net, [torch.rand(2, 1, 5, 5)], criterion="ig", n_steps=2)
    >>> found.criterion, found.count, found.values["0"].shape
    ('ig:2:abs', 2, torch.Size([4]))
    """
    check_criterion(criterion, options)
    run = _CRITERIA[_plain(criterion)]
    device = next((p.device for p in model.parameters()), "cpu") if device is None else device
    options |= _asked(run, dict(zip(COMMON, (rules, seed, device), strict=True)))
    if groups is None:
        check_repeatable(data=data)
        for batch in data:
            images = unpack(batch)[0].to(device)
            groups = find_groups(model, images, residual_width=residual_width).groups
            break
        else:
            raise DebrideError("the reference data are empty: give at least one image")
    with undisturbed(model):
        model.eval()
        return run(model, groups, data, **options)


def _asked(run: Callable[..., Scores], common: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a criterion asks for of that which all are given."""
    parameters = inspect.signature(run).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(common)
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return {key: value for key, value in common.items() if key in known}
