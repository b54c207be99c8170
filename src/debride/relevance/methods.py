"""`attribute`: the relevance of an input, and of any layer, for what a network decided."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.outputs import logits
from debride.models.state import undisturbed
from debride.relevance.engine import RelevancePass, count_layers
from debride.relevance.ledger import Ledger, on_relevance
from debride.relevance.rules import RuleSet, rule_set

Target = Tensor | Sequence[int] | int | Callable[[Any], Tensor] | None


@dataclass(frozen=True)
class Relevance:
    """What one relevance pass found.

    Attributes
    ----------
    input : Tensor
        (B, C, *spatial), like the images.
    taps : mapping of str to Tensor
        Relevance of each tapped module's output, in its shape.
    output : Tensor
        (B,) the explained values.
    shares : mapping of str to float
        Where the relevance of the whole batch ended: ``input``, ``constants``, ``softmax``
        (the softmax remainder) and ``lost`` (what rules did not pass on).
    constants, lost : mapping of str to float
        The same, layer by layer.
    delta : float
        Explained output minus the sum of `shares`: rounding, if all is well.
    unknown : mapping of str to list of str
        Operators without a rule, whose gradient was used, and the modules that they stand in.
    """

    input: Tensor
    output: Tensor
    shares: Mapping[str, float]
    delta: float
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    unknown: Mapping[str, list[str]] = field(default_factory=dict)


def attribute(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str = "lrp",
    rules: str | RuleSet = "epsilon",
    taps: Sequence[str] | str | None = None,
    strict: bool = False,
) -> Relevance:
    """Explain one output of a network for each image.

    Parameters
    ----------
    model : nn.Module
        Any PyTorch network; it comes back exactly as it was.
    images : Tensor
        (B, C, *spatial), preprocessed, on the network's device.
    target : int, sequence of int, Tensor or callable, optional
        Class to explain, one for all images or one for each; None explains the predicted class.
        A network with a single logit explains it for class 1 and its negative for class 0. A
        callable turns the network's output into the (B,) values to explain.
    method : str
        ``"lrp"``, or ``"gradient"`` for gradient × input.
    rules : str or RuleSet
        Which rules LRP uses: see `debride.relevance.rules.rule_set_names`.
    taps : sequence of str, ``"units"`` or None
        Modules whose output's relevance is returned too; ``"units"`` taps whatever produces
        removable units.
    strict : bool
        Raise at an operator that has no rule instead of using its gradient.

    Returns
    -------
    Relevance

    Raises
    ------
    DebrideError
        For a target or tap that the network does not have, or an output nobody can explain.

    References
    ----------
    Bach et al. 2015 (LRP); Achtibat et al. 2024, arXiv 2402.05602 (attention).

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> found = attribute(model, torch.ones(1, 1, 2, 2), 1)
    >>> torch.allclose(found.input.sum(), found.output[0])
    True
    """
    if method not in METHODS:
        close = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(METHODS)}"
        raise DebrideError(f"no explanation method '{method}': {hint}")
    if taps == "units":
        from debride.planning.groups import find_groups

        taps = sorted(
            {tap.read_at for g in find_groups(model, images[:1]).groups for tap in g.taps}
        )
    elif isinstance(taps, str):
        taps = [taps]
    keep: dict[str, Tensor] = {}

    def store(name: str, activation: Tensor, c: Tensor) -> None:
        relevance = activation * c
        keep[name] = keep[name] + relevance if name in keep else relevance

    found = trace(
        model, images, target, method=method, rules=rules, taps=taps or (), visit=store,
        strict=strict,
    )  # fmt: skip
    return Relevance(**{**vars(found), "taps": keep})


METHODS = ("lrp", "gradient")


def trace(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: str = "lrp",
    rules: str | RuleSet = "epsilon",
    taps: Sequence[str] = (),
    visit: Callable[[str, Tensor, Tensor], None] = lambda *_: None,
    strict: bool = False,
) -> Relevance:
    """Run one relevance pass; `visit` meets each tap's activation and c, and keeps what it wants.

    The seam for whatever needs less than the whole relevance of every tap, such as scores.
    """
    images = _checked(images)
    modules = dict(model.named_modules())
    for tap in taps:
        if tap not in modules:
            raise DebrideError(f"the network has no module '{tap}' to tap")
    handles = []

    def listen(name: str) -> None:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = output if isinstance(output, Tensor) else logits(output)
            if tensor.requires_grad:
                activation = tensor.detach()
                on_relevance(tensor, lambda c: visit(name, activation, c))

        handles.append(modules[name].register_forward_hook(hook))

    with torch.inference_mode(False), torch.enable_grad(), undisturbed(model):
        model.eval()
        leaf = images.clone() if images.is_inference() else images.detach()
        leaf = leaf.requires_grad_()
        try:
            for tap in taps:
                listen(tap)
            if method == "gradient":
                for parameter in model.parameters():
                    parameter.requires_grad_(False)
                ledger, unknown = Ledger(), {}
                output = model(leaf)
            else:
                chosen = rule_set(rules)
                layers = count_layers(model, images) if chosen.depths else 1
                relevance_pass = RelevancePass(chosen, model, strict=strict, layers=layers)
                ledger, unknown = relevance_pass.ledger, relevance_pass.unknown
                with relevance_pass:
                    output = model(leaf)
        finally:
            for handle in handles:
                handle.remove()
        explained = _explained(output, target)
        if not explained.requires_grad:
            raise DebrideError(
                "the explained output does not depend on the images as autograd sees it: the "
                "network detaches, or runs in a compiled or scripted part"
            )
        if method != "gradient":
            unknown.update(_unseen(model, explained))
            if unknown and strict:
                raise DebrideError(f"the pass cannot see into {', '.join(sorted(unknown))}")
        constants = [constant for _, constant in ledger.leaves]
        gradients = torch.autograd.grad(
            explained.sum(), [leaf, *constants], allow_unused=True, materialize_grads=False
        )
    ledger.settle(gradients[1:])
    c = gradients[0] if gradients[0] is not None else torch.zeros_like(leaf)
    relevance = leaf.detach() * c
    if ledger.input_relevance is not None:
        relevance = relevance + ledger.input_relevance.view_as(relevance)
    return _account(relevance, explained.detach(), ledger, unknown)


def _unseen(model: nn.Module, explained: Tensor) -> dict[str, list[str]]:
    """Name the parts whose torch calls a function mode does not see; their gradient is used."""
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            found.setdefault("scripted module", []).append(name)
        elif isinstance(module, torch._dynamo.OptimizedModule):
            found.setdefault("compiled module", []).append(name)
    seen, queue = set(), [explained.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue += [following for following, _ in node.next_functions]
        owner = getattr(node, "_forward_cls", None)
        if owner is not None and not owner.__module__.startswith("debride."):
            found.setdefault(f"autograd.Function {owner.__name__}", [])
    return found


def _account(
    relevance: Tensor, explained: Tensor, ledger: Ledger, unknown: Mapping[str, list[str]]
) -> Relevance:
    constants = {name: float(value) for name, value in ledger.constants.items()}
    lost = {name: float(value) for name, value in ledger.lost.items()}
    shares = {
        "input": float(relevance.sum(dtype=torch.float64)),
        "constants": sum(constants.values()),
        "softmax": 0.0 if ledger.softmax is None else float(ledger.softmax),
        "lost": sum(lost.values()),
    }
    delta = float(explained.sum(dtype=torch.float64)) - sum(shares.values())
    return Relevance(
        input=relevance,
        output=explained,
        shares=shares,
        delta=delta,
        constants=constants,
        lost=lost,
        unknown=unknown,
    )


def _checked(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim < 2 or images.shape[0] == 0:
        raise DebrideError("images must be a tensor of shape (B, C, *spatial) with B of 1 or more")
    if not images.is_floating_point():
        raise DebrideError(f"images are {images.dtype}: give preprocessed floating-point values")
    return images.as_subclass(Tensor)  # MONAI's MetaTensor answers torch functions itself


def _explained(output: Any, target: Target) -> Tensor:
    """Return the (B,) values to explain."""
    if callable(target) and not isinstance(target, Tensor):
        values = target(output)
        return values.reshape(1) if values.ndim == 0 else values
    scores = logits(output)
    if scores.ndim != 2:
        raise DebrideError(
            f"the network's output has shape {tuple(scores.shape)}, not (B, classes): give "
            "target=, a function from the output to the (B,) values to explain"
        )
    count, classes = scores.shape
    if target is None:
        chosen = (scores[:, 0] > 0).long() if classes == 1 else scores.detach().argmax(1)
    else:
        chosen = torch.as_tensor(target, device=scores.device).long().reshape(-1)
        if chosen.numel() == 1:
            chosen = chosen.expand(count)
    if chosen.numel() != count:
        raise DebrideError(f"{chosen.numel()} targets were given for {count} images")
    top = 2 if classes == 1 else classes
    if int(chosen.min()) < 0 or int(chosen.max()) >= top:
        raise DebrideError(f"targets must lie between 0 and {top - 1}")
    if classes == 1:
        return scores[:, 0] * (chosen * 2 - 1)
    return scores.gather(1, chosen[:, None])[:, 0]
