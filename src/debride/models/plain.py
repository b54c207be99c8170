"""Networks that cannot be looked into: scripted, compiled, checkpointed, made for inference."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from debride.errors import DebrideError
from debride.models.state import named_modules, undisturbed


def check_plain(model: nn.Module, example: Tensor | None = None) -> None:
    """Refuse a network that can be neither explained nor cut because of how it is run.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor, optional
        Images (B, C, *spatial). With them the first is run through the network, as only that
        shows reentrant activation checkpointing.

    Raises
    ------
    DebrideError
        Naming the module that is TorchScript, compiled, checkpointed, or of inference tensors.

    Examples
    --------
    >>> check_plain(nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(2, 2))))
    Traceback (most recent call last):
    ...
    debride.errors.DebrideError: the module '1' is TorchScript, ...
    """
    if torch.is_inference_mode_enabled():
        raise DebrideError(
            "gradients are needed and torch.inference_mode() is on: call this outside of it "
            "(torch.no_grad() does no harm)"
        )
    for name, module in named_modules(model):
        what = f"the module '{name}'" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise DebrideError(
                f"{what} is TorchScript, which cannot be looked into: give the network before "
                "torch.jit.script or torch.jit.trace"
            )
        if "_orig_mod" in module._modules or module._compiled_call_impl:
            raise DebrideError(
                f"{what} is compiled, which cannot be looked into: give it before torch.compile, "
                "and compile the result"
            )
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_inference():
                raise DebrideError(
                    f"{what} was made or loaded under torch.inference_mode(), so that no gradient "
                    "can pass: make it outside of it"
                )
    if example is not None:
        place = checkpointed(model, example, reentrant=True)
        if place is not None:
            raise DebrideError(
                f"the module '{place}' runs under activation checkpointing, through which no "
                "relevance passes: switch it off, or give torch.utils.checkpoint "
                "use_reentrant=False"
            )


def checkpointed(model: nn.Module, example: Tensor, *, reentrant: bool) -> str | None:
    """Return the first module that runs under activation checkpointing, None where none does.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    example : Tensor
        Images (B, C, *spatial), the first of which is run through the network.
    reentrant : bool
        Look for the reentrant kind only.
    """
    found: list[str] = []

    def look(name: str) -> None:
        if not found and _under_checkpoint(reentrant):
            found.append(name)

    handles = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: look(name))
        for name, module in model.named_modules()
    ]
    try:
        with undisturbed(model), torch.enable_grad():
            # no leaf, so that the network may change it in place
            model.eval()(example[:1].clone().requires_grad_() + 0)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _under_checkpoint(reentrant: bool) -> bool:
    frame = sys._getframe(1)
    while (caller := frame.f_back) is not None:
        frame = caller
        code = frame.f_code
        if code.co_filename == checkpoint.__file__ and (code.co_name == "forward" or not reentrant):
            return True
    return False
