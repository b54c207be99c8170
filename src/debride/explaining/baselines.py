"""Baselines of methods, as a command line gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError


def baseline_of(given: Any, preprocessing: Preprocessing) -> Any:
    """Turn a grey level into what the network sees of it; ``"zero"`` is black."""
    if given == "zero":
        given = 0.0
    if isinstance(given, str):
        return given
    if not 0 <= given <= 1:
        raise DebrideError(
            f"--option baseline={given} is no grey: give 0 (black) to 1 (white), zero, mean or blur"
        )
    return grey(given, preprocessing)


def grey(level: float, preprocessing: Preprocessing) -> Tensor:
    """Give a grey of 0 (black) to 1 (white) as the network sees it, (C, 1, 1) or (C, 1, 1, 1)."""
    sides = [1] * len(preprocessing.spatial)
    seen: Tensor = preprocessing.normaliser()(torch.full((preprocessing.channels, *sides), level))
    return seen
