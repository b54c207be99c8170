"""Parts of a network that make no torch call which a pass could meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from debride.models.outputs import first_tensor
from debride.models.state import named_modules


def unseen(model: nn.Module, images: Tensor, explained: Tensor) -> dict[str, list[str]]:
    """Name what of a network is hidden from a function mode, and the modules that it stands in.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode; run once more only where something hidden is found.
    images : Tensor
        (B, C, *spatial), as the network got them.
    explained : Tensor
        Made of the network's output, with its graph.

    Returns
    -------
    dict of str to list of str
    """
    found = scripted_functions(model)
    if _foreign([explained], set()):
        for name, places in _placed(model, images).items():
            found.setdefault(name, []).extend(places)
    return found


def scripted_functions(model: nn.Module) -> dict[str, list[str]]:
    """Name the functions of ``torch.jit.script`` that a module's forward calls by name."""
    found: dict[str, list[str]] = {}
    modules = named_modules(model)
    called = {kind: _scripted_in(kind) for kind in {type(module) for _, module in modules}}
    if any(called.values()):
        for where, module in modules:
            for name in called[type(module)]:
                found.setdefault(f"scripted function {name}", []).append(
                    where or type(module).__name__
                )
    return found


def _scripted_in(kind: type[nn.Module]) -> list[str]:
    forward = getattr(kind.forward, "__wrapped__", kind.forward)
    code = getattr(forward, "__code__", None)
    return [
        name
        for name in (() if code is None else code.co_names)
        if isinstance(forward.__globals__.get(name), torch.jit.ScriptFunction)
    ]


def _placed(model: nn.Module, images: Tensor) -> dict[str, list[str]]:
    """Run the network once more and look at the graph behind each module as it returns.

    Inner modules return first, so that each part of the graph is counted for the innermost.
    """
    seen: set[Any] = set()
    found: dict[str, list[str]] = {}

    def look(where: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            for name in [] if tensor is None else _foreign([tensor], seen):
                places = found.setdefault(name, [])
                if where not in places:
                    places.append(where)

        return hook

    handles = [
        module.register_forward_hook(look(name or type(module).__name__))
        for name, module in model.named_modules()
    ]
    try:
        with torch.enable_grad():
            model(images.detach().clone().requires_grad_() + 0)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _foreign(outputs: list[Tensor], seen: set[Any]) -> list[str]:
    """Name the custom functions in the graph behind some tensors that are not in `seen` yet."""
    found, queue = [], [tensor.grad_fn for tensor in outputs]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        queue += [following for following, _ in node.next_functions]
        owner = getattr(node, "_forward_cls", None)
        if owner is not None and not owner.__module__.startswith("debride."):
            compiled = "compiled code" if owner.__name__ == "CompiledFunction" else None
            found.append(compiled or f"autograd.Function {owner.__name__}")
    return found
