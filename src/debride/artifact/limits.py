"""What building a network from a stranger's folder may cost, so that no folder fills the memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from debride.artifact.tensors import stored_tensors
from debride.errors import DebrideError

TENSORS, MORE_TENSORS = 8, 1000
"""What a constructor may make for each tensor of the file, and besides; common ones make one."""
PRUNED_TO = 64
"""A network may have been cut to this part of its size."""
SMALL = 1 << 26
"""Elements that any network may have, whatever the size of its file: 256 MB."""
LARGEST_OPTION = 1 << 15
MOST_OPTIONS = 1000


class BuildingLimits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops a constructor that makes more tensors, or more elements, than its file explains.

    Elements count where they take memory: not on the meta device.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tensors = TENSORS * stored_tensors(weights) + MORE_TENSORS
        self._elements = PRUNED_TO * weights.stat().st_size + SMALL

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what an operator without tensors among its arguments is about to make."""
        sizes = args[0] if args and isinstance(args[0], list | tuple) else ()
        if not any(isinstance(each, torch.Tensor) for each in (*args, *sizes)):
            self._tensors -= 1
            if (kwargs or {}).get("device") != torch.device("meta"):
                self._elements -= math.prod(sizes)
            if self._tensors < 0 or self._elements < 0:
                raise DebrideError(
                    "the network it describes is far larger than its weights: it is not built"
                )
        return func(*args, **(kwargs or {}))


def check_options(options: Any) -> None:
    """Refuse options of a network that no network has.

    Raises
    ------
    DebrideError
        For numbers over 32768, long texts, more than a thousand values, or deep nesting.
    """
    left, level = MOST_OPTIONS, [options]
    for _ in range(8):
        inner: list[Any] = []
        for value in level:
            left -= 1
            if isinstance(value, dict | list):
                inner.extend([*value, *value.values()] if isinstance(value, dict) else value)
            elif isinstance(value, str):
                left -= len(value) // 100
            elif isinstance(value, int | float) and abs(value) > LARGEST_OPTION:
                raise DebrideError(f"the option {value:.3g} is larger than any network has")
            if left < 0:
                break
        level = inner[:MOST_OPTIONS]
        if left < 0:
            break
    if level or left < 0:
        raise DebrideError("it gives the network more options than any has")
