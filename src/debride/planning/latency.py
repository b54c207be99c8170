"""Latency as a budget: measured beside the original on the CPU, or read from a table."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.state import undisturbed
from debride.planning.budgets import Cost, CostModel, Spent, _product_model
from debride.planning.layers import AXIS, width
from debride.planning.plan import Group, PlannedGroup
from debride.surgery.removal import narrow
from debride.timing import take_turns

TOLERANCE = 0.05
"""A latency is met within this fraction of the original's, or where its interval holds it."""

NEAR = 0.02
"""So near to the latency asked for, no better cut is looked for."""

MOST_TRIALS = 10
"""Cuts that are built and timed for one latency, at most."""

SCHEMA_VERSION = 1

Cut = tuple[PlannedGroup, ...]


@dataclass(frozen=True)
class Measured:
    """Latency as a share of the original's: ratio of the medians, quartiles of run by run."""

    share: float
    low: float
    high: float

    def meets(self, target: float) -> bool:
        """Tell whether a target is met."""
        return abs(self.share - target) <= TOLERANCE or self.low <= target <= self.high


class Clock:
    """Times cut networks beside the original, one image on the CPU, taking turns.

    Parameters
    ----------
    original : nn.Module
        The network before any cut; it is copied.
    example : Tensor
        (B, C, *spatial); the first image is used.
    seconds : float
        Time for one comparison.
    """

    def __init__(self, original: nn.Module, example: Tensor, seconds: float = 1.5) -> None:
        self.original = copy.deepcopy(original).cpu().eval()
        self.image = example[:1].detach().cpu()
        self.seconds = seconds

    def share(self, model: nn.Module, seconds: float | None = None) -> Measured:
        """Measure a network's latency as a share of the original's."""
        smaller = copy.deepcopy(model).cpu().eval()
        times = take_turns(
            [self.original, smaller], self.image, seconds or self.seconds, least=7, most=300
        )
        low, high = np.quantile(times[1] / times[0], [0.25, 0.75])
        share = float(np.median(times[1]) / np.median(times[0]))
        return Measured(share, float(low), float(high))

    def fit(
        self,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        cut_at: Callable[[float], Cut],
        target: float,
        *,
        lowest: float,
        strict: bool = True,
    ) -> Cut:
        """Find the cut that is measured to take `target` of the original's time.

        Parameters
        ----------
        model : nn.Module
            Already cut down to `groups`; copied for every trial.
        groups : sequence of PlannedGroup
        cut_at : callable
            From a predicted share to the cut that has it.
        target : float
            Share of the original's latency.
        lowest : float
            Least predicted share that `cut_at` can reach.
        strict : bool
            Refuse where no trial meets the target; otherwise the nearest does.

        Raises
        ------
        DebrideError
            Naming the nearest latency that was measured.
        """
        share, low, high = max(target, lowest), lowest, 1.0
        trials: list[tuple[float, Cut, Measured]] = []
        for _ in range(MOST_TRIALS):
            cut = cut_at(share)
            found = self._time(model, groups, cut, self.seconds)
            if strict and abs(found.share - target) <= TOLERANCE:
                # a lucky measurement flatters: only a second, longer one counts
                found = self._time(model, groups, cut, 2 * self.seconds)
            trials.append((abs(found.share - target), cut, found))
            if abs(found.share - target) <= NEAR or (not strict and found.meets(target)):
                break
            if found.share > target:
                high = share
            else:
                low = share
            if high - low < 1e-3:
                break
            # first steps in proportion, then halving the bracket
            guess = share * target / found.share
            share = guess if low < guess < high and len(trials) < 4 else (low + high) / 2
        _, cut, nearest = min(trials, key=lambda trial: trial[0])
        if nearest.meets(target) or not strict:
            return cut
        raise DebrideError(
            f"the latency of {target:.3g} cannot be met within {TOLERANCE}: the nearest measured "
            f"is {nearest.share:.3f} ({nearest.low:.3f} to {nearest.high:.3f}); ask for that, or "
            "measure on a quieter machine"
        )

    def _time(
        self,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        cut: Cut,
        seconds: float,
    ) -> Measured:
        smaller = copy.deepcopy(model)
        narrow(smaller, cut, groups)
        return self.share(smaller, seconds)


def predicted(model: nn.Module, groups: Sequence[Group], example: Tensor) -> CostModel:
    """Predict latency from each cut layer's own time, as if it shrank like its operations.

    It only steers: what is not cut is left out, so that every share is within reach, and
    `Clock.fit` measures what a share is really worth.
    """
    spent = _seconds_by_module(model, groups, example)
    modules = dict(model.named_modules())
    rows = [
        Spent(
            name,
            round(1e9 * seconds),
            inputs=any(p.ndim > 1 for p in modules[name].parameters()),
            dims=True,
        )
        for name, seconds in spent.items()
    ]
    return _product_model(model, groups, rows)


def _seconds_by_module(
    model: nn.Module, groups: Sequence[Group], example: Tensor
) -> dict[str, float]:
    timed = copy.deepcopy(model).cpu().eval()
    names = dict.fromkeys(
        member.module
        for group in groups
        for member in group.members
        if member.side != "stated" and not member.side.startswith(AXIS)
    )
    runs: dict[str, list[float]] = {name: [] for name in names}
    begun: dict[str, float] = {}

    def enter(name: str) -> None:
        begun[name] = time.perf_counter()

    def leave(name: str) -> None:
        runs[name].append(time.perf_counter() - begun[name])

    for name in names:
        module = timed.get_submodule(name)
        module.register_forward_pre_hook(lambda _m, _i, name=name: enter(name))
        module.register_forward_hook(lambda _m, _i, _o, name=name: leave(name))
    with undisturbed(timed), torch.inference_mode():
        for _ in range(7):
            timed(example[:1].detach().cpu())
    return {name: float(np.median(each)) for name, each in runs.items() if each}


@dataclass(frozen=True)
class _Layer:
    """Milliseconds (I, O) of one layer over numbers of inputs (I,) and outputs (O,), rising."""

    inputs: npt.NDArray[np.float64]
    outputs: npt.NDArray[np.float64]
    milliseconds: npt.NDArray[np.float64]

    def __call__(self, inputs: float, outputs: float) -> float:
        rows = [float(np.interp(outputs, self.outputs, row)) for row in self.milliseconds]
        return float(np.interp(inputs, self.inputs, rows))


def table_cost(path: str | Path, model: nn.Module, groups: Sequence[Group]) -> Cost:
    """Read a latency table and return the latency it gives for what is cut.

    The file is JSON: ``{"schema_version": 1, "fixed": 0.4, "layers": {NAME: {"inputs": [16, 64],
    "outputs": [16, 64], "ms": [[0.1, 0.3], [0.2, 0.9]]}}}``. ``ms[i][j]`` is what the layer takes
    with ``inputs[i]`` input and ``outputs[j]`` output channels; between them it is interpolated
    linearly. ``fixed`` is what everything else takes.

    Parameters
    ----------
    path : str or Path
    model : nn.Module
        The network before any cut.
    groups : sequence of Group

    Raises
    ------
    DebrideError
        When the file is no such table, or does not fit the network.
    """
    layers, fixed = _read_table(Path(path), model)
    names = list(layers)
    whole = np.array([[width(model.get_submodule(n), side) for n in names] for side in _SIDES])
    taken = np.zeros((2, len(names), len(groups)))
    for column, group in enumerate(groups):
        for member in group.members:
            if member.module in layers and member.side in _SIDES:
                side = _SIDES.index(member.side)
                taken[side, names.index(member.module), column] += len(member.positions([0]))

    def cost(removed: npt.NDArray[np.float64]) -> float:
        inputs, outputs = whole - taken @ removed
        return fixed + sum(
            layers[name](inputs[row], outputs[row]) for row, name in enumerate(names)
        )

    return cost


_SIDES: tuple[Any, Any] = ("in", "out")


def _read_table(path: Path, model: nn.Module) -> tuple[dict[str, _Layer], float]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise DebrideError(
                f"'{path}' has schema version {data['schema_version']!r}, this Debride reads "
                f"{SCHEMA_VERSION}"
            )
        fixed = float(data["fixed"])
        layers = {
            str(name): _Layer(
                *(np.array(entry[key], dtype=np.float64) for key in ("inputs", "outputs", "ms"))
            )
            for name, entry in data["layers"].items()
        }
    except OSError as error:
        raise DebrideError(f"cannot read '{path}': {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DebrideError(
            f"'{path}' is not a latency table ({type(error).__name__}: {error}): docs/cli.md has "
            "its form"
        ) from None
    modules = dict(model.named_modules())
    for name, layer in layers.items():
        if name not in modules:
            raise DebrideError(f"'{path}' has a layer '{name}' that the network does not have")
        module = modules[name]
        axes = ((layer.inputs, "in"), (layer.outputs, "out"))
        for side, (axis, where) in enumerate(axes):
            wide = width(module, where)  # type: ignore[arg-type]
            rising = axis.ndim == 1 and len(axis) > 0 and bool(np.all(np.diff(axis) > 0))
            if (
                not rising
                or axis[-1] < wide
                or layer.milliseconds.shape[side : side + 1] != axis.shape
            ):
                raise DebrideError(
                    f"'{path}': the {where}puts of '{name}' must rise up to its {wide} channels, "
                    "with a row or column of milliseconds for each"
                )
        if not np.isfinite(layer.milliseconds).all() or (layer.milliseconds < 0).any():
            raise DebrideError(f"'{path}': the milliseconds of '{name}' must be 0 or more")
    if not layers or not fixed >= 0:
        raise DebrideError(
            f"'{path}' is not a latency table: it has no layers, or fixed is below 0"
        )
    return layers, fixed
