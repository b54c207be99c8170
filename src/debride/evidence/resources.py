"""What a forward pass takes beside time: memory at its peak, and energy where it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

POWERCAP = Path("/sys/class/powercap")
TURNS = 4


class Pair(TypedDict):
    """A figure of both networks."""

    original: float | None
    model: float


def peak_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes held at the peak of a forward pass, weights and images included.

    On the CPU the live tensors are counted after every operator; what a kernel takes for itself
    is not seen.

    Parameters
    ----------
    model
        In evaluation mode.
    images
        (B, C, *spatial), on the network's device.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(10, 100, bias=False), nn.Linear(100, 1, bias=False))
    >>> peak_bytes(net, torch.zeros(1, 10))  # weights 1100, image 10, activations 100 and 1
    4844
    """
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        with torch.no_grad():
            model(images)
        torch.cuda.synchronize(images.device)
        return torch.cuda.max_memory_allocated(images.device)
    state = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in chain(model.parameters(), model.buffers())
    }
    state[images.untyped_storage().data_ptr()] = images.nbytes
    live = _Live(set(state))
    with torch.no_grad(), live:
        model(images)
    return sum(state.values()) + live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive, but for those known before."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known, self.peak = known, 0
        self.storages: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.storages[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.storages.values()))
        return result


def energy_counter(root: Path = POWERCAP) -> Callable[[], float] | str:
    """Return what reads the joules that the processor packages took, or why there is nothing.

    Linux tells them by RAPL (Intel, and AMD since Zen), often to the administrator only.
    """
    packages = sorted(root.glob("intel-rapl:[0-9]*/energy_uj"))
    packages = [each for each in packages if each.parent.name.count(":") == 1]
    if not packages:
        return "this machine does not tell (no RAPL)"

    def read() -> float:
        return sum(int(each.read_text()) for each in packages) / 1e6

    try:
        read()
    except (OSError, ValueError):
        return f"{packages[0].parent} may not be read by this user"
    return read


def energy(
    networks: Sequence[nn.Module], images: Tensor, read: Callable[[], float], seconds: float
) -> list[float]:
    """Return the joules an image that the packages took while each network ran, in turns.

    What else the machine did meanwhile, and idling, is in it.

    Parameters
    ----------
    networks
        On the device of `images`, in evaluation mode.
    images
        (B, C, *spatial), a batch.
    read
        Joules so far.
    seconds
        For all.
    """
    spent, done = [0.0] * len(networks), [0] * len(networks)
    for _ in range(TURNS):
        for place, network in enumerate(networks):
            before, begun = read(), time.perf_counter()
            with torch.inference_mode():
                count = 0
                while not count or time.perf_counter() - begun < seconds / TURNS:
                    network(images)
                    count += len(images)
            done[place] += count
            spent[place] += max(read() - before, 0.0)  # a counter that began anew tells nothing
    return [joules / count for joules, count in zip(spent, done, strict=True)]
