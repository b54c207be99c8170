"""`attribute`: the one verb for every explanation method, and how a method is added."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

import torch
from torch import Tensor, nn

from debride.errors import DebrideError, hint
from debride.relevance.result import Relevance
from debride.relevance.rules import RuleSet
from debride.relevance.targets import Goal, Target, check_finite, check_images, decide
from debride.relevance.tracing import check_taps, prepared, trace

__all__ = ["Relevance", "Request", "Target", "attribute", "method_names", "method_options",
           "method_title", "pass_rules", "register_method", "trace"]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a method is asked to explain.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode while the method runs.
    images : Tensor
        (B, C, *spatial), checked.
    target : Target
    taps : tuple of str
        Names of modules, checked.
    rules : str or RuleSet
        For methods that have rules.
    strict : bool
    """

    model: nn.Module
    images: Tensor
    target: Target = None
    taps: tuple[str, ...] = ()
    rules: str | RuleSet = "epsilon"
    strict: bool = False

    def decide(self) -> tuple[Goal, Tensor]:
        """Fix the target on the clean images; return it and the (B,) explained values."""
        with torch.no_grad():
            output = self.model(self.images.clone())
            goal = decide(output, self.target, len(self.images))
            values = goal(output)
        check_finite(values, self.model, self.images)
        return goal, values


class Method(Protocol):
    """A function from a `Request`, and options of its own given by name, to a `Relevance`."""

    def __call__(self, request: Request, **options: Any) -> Relevance: ...


_types = functools.cache(get_type_hints)
_METHODS: dict[str, Callable[..., Relevance]] = {}
_RULES: dict[str, Callable[..., RuleSet]] = {}
_TITLES: dict[str, str] = {}


def register_method(
    *names: str, title: str | None = None, rules: Callable[..., RuleSet] | None = None
) -> Callable[[Callable[..., Relevance]], Callable[..., Relevance]]:
    """Register a `Method` under the names that ``attribute(method=...)`` takes.

    Its keyword-only parameters are its options: what others give is refused by name.

    Parameters
    ----------
    *names : str
    title : str, optional
        What people are shown; by default the name.
    rules : callable, optional
        For a method that is one relevance pass: a function from ``attribute``'s `rules`, and
        the method's options by name, to the pass's own rules.

    Examples
    --------
    >>> @register_method("edges")
    ... def edges(request, *, sign=1.0):
    ...     steps = sign * request.images.diff(dim=-1, prepend=request.images[..., :1])
    ...     return Relevance(steps, steps.flatten(1).sum(1), {}, 0.0)
    >>> attribute(nn.Identity(), torch.tensor([[[1.0, 3.0]]]), method="edges", sign=-1).output
    tensor([-2.])
    """

    def add(method: Callable[..., Relevance]) -> Callable[..., Relevance]:
        _METHODS.update(dict.fromkeys(names, method))
        _TITLES.update({name: title or name for name in names})
        if rules is not None:
            _RULES.update(dict.fromkeys(names, rules))
        return method

    return add


def method_names() -> tuple[str, ...]:
    """Return the names that `attribute` knows."""
    return tuple(sorted(_METHODS))


def method_title(name: str) -> str:
    """Return what people call a method; its name where nobody registered it.

    Examples
    --------
    >>> method_title("gradcam")
    'Grad-CAM'
    """
    return _TITLES.get(name, name)


def method_options(name: str) -> dict[str, Any] | None:
    """Return the options of a method and their types; None where it takes any.

    Raises
    ------
    DebrideError
        For a method that nobody registered.

    Examples
    --------
    >>> method_options("gradcam")
    {'layer': str | None, 'relu': <class 'bool'>, 'memory': float | None}
    """
    if name not in _METHODS:
        raise DebrideError(f"no explanation method '{name}': {hint(name, method_names())}")
    known = inspect.signature(_METHODS[name]).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return None
    types = _types(_METHODS[name])
    return {p.name: types.get(p.name, Any) for p in known if p.kind is p.KEYWORD_ONLY}


def pass_rules(
    method: str, rules: str | RuleSet = "epsilon", options: Mapping[str, Any] | None = None
) -> RuleSet | None:
    """Return the rules of the one relevance pass that a method is; None where it is none.

    Examples
    --------
    >>> pass_rules("dlb", options={"collapse": True}).attention
    'collapse'
    """
    return _RULES[method](rules, **(options or {})) if method in _RULES else None


def attribute(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str = "lrp",
    rules: str | RuleSet = "epsilon",
    taps: Sequence[str] | str | None = None,
    strict: bool = False,
    **options: Any,
) -> Relevance:
    """Explain one output of a network for each image.

    Parameters
    ----------
    model : nn.Module
        Any PyTorch network; it comes back exactly as it was.
    images : Tensor
        (B, C, *spatial), preprocessed, on the network's device.
    target : int, sequence of int, Tensor, Region or callable, optional
        Class to explain, one for all images or one for each; None explains the class predicted
        for the clean image. A network with a single logit explains it for class 1 and its
        negative for class 0. A `Region` explains a class of a segmentation. A callable turns the
        network's output into the (B,) values to explain; whatever the method does, it is given
        the images of the batch in their order.
    method : str
        ``"lrp"``, ``"gradient"`` (× input), ``"smoothgrad"``, ``"ig"`` (integrated gradients),
        ``"gradcam"`` or ``"occlusion"``; others by `register_method`.
    rules : str or RuleSet
        Which rules LRP uses: see `debride.relevance.rules.rule_set_names`.
    taps : sequence of str, ``"units"`` or None
        Modules whose output's relevance is returned too; ``"units"`` taps whatever produces
        removable units.
    strict : bool
        Raise at an operator that has no rule instead of using its gradient.
    **options
        The method's own, such as ``n_steps`` of ``"ig"``; every built-in method has ``memory``, a
        limit in GiB on what a batch may take, which never changes the result.

    Returns
    -------
    Relevance

    Raises
    ------
    DebrideError
        For a target, tap, method or option that does not exist, or an output nobody can explain.

    References
    ----------
    Bach et al. 2015 (LRP); Achtibat et al. 2024, arXiv 2402.05602 (attention); the others are
    cited where they are written.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> found = attribute(model, torch.ones(1, 1, 2, 2), 1)
    >>> torch.allclose(found.input.sum(), found.output[0])
    True
    """
    known = method_options(method)
    for name in options:
        if known is not None and name not in known:
            raise DebrideError(f"method '{method}' has no option '{name}': {hint(name, known)}")
    run = _METHODS[method]
    images = check_images(images)
    with prepared(model):
        if images.is_inference():
            images = images.clone()
        if taps == "units":
            from debride.planning.groups import find_groups

            groups = find_groups(model, images[:1]).groups
            taps = sorted({tap.read_at for group in groups for tap in group.taps})
        names = [taps] if isinstance(taps, str) else list(taps or ())
        check_taps(model, names)
        request = Request(model, images.detach(), target, tuple(names), rules, strict)
        return run(request, **options)
