"""One forward and one backward through a pass, and who listens on the way: `trace`."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.attention import INPUT, opened
from debride.models.outputs import first_tensor
from debride.models.plain import check_plain, checkpointed
from debride.models.state import named_modules, undisturbed
from debride.relevance.engine import RelevancePass
from debride.relevance.ledger import Ledger, on_relevance
from debride.relevance.result import Relevance, from_ledger
from debride.relevance.rules import RuleSet, rule_set
from debride.relevance.targets import Target, check_finite, check_images, decide
from debride.relevance.unseen import unseen
from debride.relevance.without_rules import GradientPass, count_layers

Visit = Callable[[str, Tensor, Tensor], None]
"""(tap, activation, c): meets each call of each tapped module on the way back."""


def trace(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str = "lrp",
    rules: str | RuleSet = "epsilon",
    taps: Sequence[str] = (),
    visit: Visit = lambda *_: None,
    strict: bool = False,
    through: RelevancePass | None = None,
) -> Relevance:
    """Run one relevance pass; `visit` meets each tap's activation and c, and keeps what it wants.

    The seam for whatever needs less than the whole relevance of every tap, such as scores.

    Parameters
    ----------
    method : str
        ``"lrp"``, or ``"gradient"`` for plain gradients.
    through : RelevancePass, optional
        A pass made by the caller, used once; `method`, `rules` and `strict` are then its own.

    Examples
    --------
    >>> seen = []
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> visit = lambda name, activation, c: seen.append((name, tuple(c.shape)))
    >>> found = trace(model, torch.ones(3, 1, 2, 2), 1, taps=["1"], visit=visit)
    >>> seen
    [('1', (3, 2))]
    """
    images = check_images(images)
    if through is None:
        chosen = rules if method == "lrp" else None
        through = new_pass(model, chosen, strict=strict, images=images)
    with prepared(model):
        return relevance_of(model, images, target, through, taps, visit)


def relevance_of(
    model: nn.Module,
    images: Tensor,
    target: Target,
    through: RelevancePass,
    taps: Sequence[str] = (),
    visit: Visit = lambda *_: None,
) -> Relevance:
    """Run a pass as `trace` does, on a network that is `prepared` and images that are checked."""
    if not isinstance(through, GradientPass):
        check_plain(model)
    leaf, output = forward(model, images, through, taps, visit)
    explained = decide(output, target, len(images))(output)
    check_finite(explained, model, images)
    unknown = through.unknown
    if not isinstance(through, GradientPass):
        hidden = unseen(model, images, explained)
        if hidden and through.strict:
            raise DebrideError(f"the pass cannot see into {_listed(hidden)}")
        unknown.update(hidden)
    ledger = through.ledger
    constants = [constant for _, constant in ledger.leaves]
    ends = [leaf, *constants, *ledger.read]
    c, *shares = backward(explained, ends, model, through.departed(first_tensor(output)))
    ledger.settle(tuple(shares[: len(constants)]))
    relevance = torch.zeros_like(images) if c is None else leaf.detach() * c
    for read, reached in ledger.at_input:
        relevance = relevance + _moved_back(read, leaf, reached, ledger)
    return from_ledger(relevance, explained.detach(), ledger, unknown)


def _moved_back(read: Tensor, leaf: Tensor, relevance: Tensor, ledger: Ledger) -> Tensor:
    """Return R of the image from R of what the first layer read of it.

    The image may have been scaled, padded, cropped, cut into pieces or put in another order: each
    value read shares its R among the pixels that it was made of, in parts of its own weights. A
    border, which was made of none, keeps its share.
    """
    if read is leaf:
        return relevance

    def back(values: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(read, leaf, values, create_graph=True)
        return found

    zeros = torch.zeros_like(read, requires_grad=True)
    (total,) = torch.autograd.grad(back(zeros), zeros, torch.ones_like(leaf), create_graph=True)
    found = back(torch.where(total == 0, 0, relevance / torch.where(total == 0, 1, total))).detach()
    ledger.absorb("(border)", relevance.sum() - found.sum())
    return found


def new_pass(
    model: nn.Module,
    rules: str | RuleSet | None = None,
    *,
    strict: bool = False,
    images: Tensor | None = None,
) -> RelevancePass:
    """Make a relevance pass with these rules, or for None one of plain gradients.

    Rules by depth need `images`: one forward tells how many layers there are.
    """
    if rules is None:
        return GradientPass(rule_set("epsilon"), model, strict=strict)
    chosen = rule_set(rules)
    layers = 1
    if chosen.depths and images is not None:
        with prepared(model):
            layers = count_layers(model, images)
    return RelevancePass(chosen, model, strict=strict, layers=layers)


def gradients(
    model: nn.Module,
    points: Tensor,
    explain: Callable[[Any], Tensor],
    *,
    through: RelevancePass,
    taps: Sequence[str] = (),
    visit: Visit = lambda *_: None,
) -> tuple[Tensor, Tensor]:
    """Return the (N,) explained values at these points and their gradient, (N, C, *spatial).

    The network is in evaluation mode: see `prepared`.

    Examples
    --------
    >>> model = nn.Flatten().eval()
    >>> through = new_pass(model)
    >>> gradients(model, torch.ones(1, 2), lambda out: (out**2).sum(1), through=through)[1]
    tensor([[2., 2.]])
    """
    leaf, output = forward(model, points, through, taps, visit)
    explained = explain(output)
    (c,) = backward(explained, [leaf], model, through.departed(first_tensor(output)))
    return explained.detach(), torch.zeros_like(points) if c is None else c


@contextlib.contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, with autograd on; everything comes back as it was."""
    with torch.inference_mode(False), torch.enable_grad(), undisturbed(model):
        if any(module.training for _, module in named_modules(model)):
            model.eval()
        yield


def forward(
    model: nn.Module, images: Tensor, through: RelevancePass, taps: Sequence[str], visit: Visit
) -> tuple[Tensor, Any]:
    """Run the network inside a pass; return the leaf that it read, and its output."""
    leaf = images.clone() if images.is_inference() else images.detach()
    leaf = leaf.requires_grad_()
    with _checkpointing_named(model, images), listening(model, taps, visit, through), through:
        return leaf, through.current(model(leaf))


def backward(
    explained: Tensor,
    leaves: Sequence[Tensor],
    model: nn.Module,
    departed: tuple[str, str] | None = None,
) -> tuple[Tensor | None, ...]:
    """Return the gradient of the summed values at each leaf, or say in words why there is none.

    `departed` is how and in which module the network left autograd, if that is known.
    """
    if not explained.requires_grad:
        how, where = departed or ("", "")
        cause = f"the module '{where}' leaves autograd by {how}" if how else "the network detaches"
        raise DebrideError(
            f"the explained output does not depend on the images as autograd sees it: {cause}; "
            "take that out, or use method='occlusion', which needs no gradient"
        )
    with _checkpointing_named(model, leaves[0]):
        return torch.autograd.grad(
            explained.sum(), leaves, allow_unused=True, materialize_grads=False
        )


@contextlib.contextmanager
def _checkpointing_named(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Say in words when an error comes out of activation checkpointing."""
    try:
        yield
    except RuntimeError as error:  # CheckpointError is one
        frames = traceback.extract_tb(error.__traceback__)
        if "checkpoint" not in str(error) and not any(
            frame.filename == torch.utils.checkpoint.__file__ for frame in frames
        ):
            raise
        place = checkpointed(model, images.detach(), reentrant=False)
        who = f"the module '{place}' runs under" if place else "the network uses"
        raise DebrideError(
            f"{who} activation checkpointing, which runs it a second time where it cannot be "
            "followed: turn it off, e.g. model.set_grad_checkpointing(False)"
        ) from error


def check_taps(model: nn.Module, taps: Sequence[str]) -> dict[str, nn.Module]:
    """Return the tapped modules by name.

    A name that ends in ``@input`` taps what comes into a module.

    Raises
    ------
    DebrideError
        For a name that the network does not have.
    """
    if not taps:
        return {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for tap in taps:
        if tap.removesuffix(INPUT) not in modules:
            raise DebrideError(f"the network has no module '{tap}' to tap")
    return {tap: modules[tap.removesuffix(INPUT)] for tap in taps}


@contextlib.contextmanager
def hearing(
    model: nn.Module, taps: Sequence[str], meet: Callable[[str, Tensor], object]
) -> Iterator[None]:
    """Have `meet` see every output of the tapped modules as it is made inside the block."""
    handles = []
    # What heads give is seen in attention that calls its layers one by one.
    seen = opened(model) if any(tap.endswith(INPUT) for tap in taps) else contextlib.nullcontext()

    def hear(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: Any, output: Any = None) -> None:
            tensor = first_tensor(given if name.endswith(INPUT) else output)
            if tensor is not None:
                meet(name, tensor)

        return hook

    try:
        for name, module in check_taps(model, taps).items():
            if name.endswith(INPUT):
                handles.append(module.register_forward_pre_hook(hear(name)))
            else:
                handles.append(module.register_forward_hook(hear(name)))
        with seen:
            yield
    finally:
        for handle in handles:
            handle.remove()


def listening(
    model: nn.Module, taps: Sequence[str], visit: Visit, through: RelevancePass
) -> contextlib.AbstractContextManager[None]:
    """Have `visit` meet every output of the tapped modules when c reaches it on the way back."""

    def listen(name: str, tensor: Tensor) -> None:
        tensor = through.current(tensor)
        if tensor.requires_grad:
            activation = tensor.detach()
            on_relevance(tensor, lambda c: visit(name, activation, c))

    return hearing(model, taps, listen)


def wide(value: Tensor) -> Tensor:
    """Return half-precision values as float32, for sums over steps; others as they are."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class Sums:
    """Adds up what is found at each tap: over calls of a module, over steps.

    Attributes
    ----------
    found : dict of str to Tensor

    Examples
    --------
    >>> sums = Sums()
    >>> sums.add("conv", torch.ones(2))
    >>> sums.add("conv", torch.ones(2))
    >>> sums.found["conv"]
    tensor([2., 2.])
    """

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()

    def add(self, name: str, value: Tensor) -> None:
        """Add to one tap."""
        if name not in self.found:
            self.found[name] = value
            return
        if self.found[name].shape != value.shape:
            raise DebrideError(
                f"module '{name}' is called several times with outputs of different shapes, which "
                "cannot be added up: tap the modules around it"
            )
        self.found[name] = self.found[name] + value

    def relevance(self, name: str, activation: Tensor, c: Tensor) -> None:
        """Add activation ⊙ c: a `Visit`."""
        self.add(name, activation * c)


def _listed(hidden: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{name} (in module {', '.join(map(repr, places))})" for name, places in hidden.items()
    )
