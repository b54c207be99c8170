"""The networks that a pruning visited, kept so that it can go on, or take another one later.

A folder holds ``state.json`` and, for each kept point, ``NNN.safetensors`` and ``NNN.json`` (its
plan). Files are written under another name and renamed, weights before the state that names
them: whenever the process is killed, the folder holds every finished step.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from debride.artifact.tensors import Layout, read_tensors, write_tensors
from debride.errors import DebrideError
from debride.files import UNFINISHED_POINTS, write_atomic
from debride.planning.plan import Plan, PlannedGroup, weights_hash
from debride.planning.search import StepRecord
from debride.surgery.removal import apply

SCHEMA_VERSION = 1
STATE = "state.json"


@dataclass
class _State:
    """What ``state.json`` says."""

    settings: dict[str, Any]
    network: str
    points: list[StepRecord] = field(default_factory=list)
    layouts: dict[int, Layout] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


_FORM = TypeAdapter(_State)


class Points:
    """The points visited so far, in memory and, given a folder, on disk.

    Parameters
    ----------
    model : nn.Module
        The network before any cut.
    groups : sequence of PlannedGroup
        Its units, all kept.
    settings : mapping
        What must be the same where the work goes on.
    folder : Path, optional
        Where the run will be; the points are kept in a folder in it until it is finished.
    keep_all : bool
        Whether every network is kept on disk, or only what is needed to go on.

    Raises
    ------
    DebrideError
        When the folder holds unfinished work with other settings, or is damaged.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        settings: Mapping[str, Any],
        folder: Path | None,
        *,
        keep_all: bool,
    ) -> None:
        self.original, self.whole, self.keep_all = model, tuple(groups), keep_all
        self.folder = None if folder is None else folder / UNFINISHED_POINTS
        self._state = _State(json.loads(json.dumps(dict(settings))), weights_hash(model))
        self._held: dict[int, tuple[nn.Module, tuple[PlannedGroup, ...]]] = {}
        if self.folder is not None and (self.folder / STATE).is_file():
            found = read_state(self.folder)
            _same_settings(self.folder, found.settings, self._state.settings)
            if found.network != self._state.network:
                raise _other(self.folder, "a network of other weights")
            self._state = found
            for stray in self.folder.glob(".*"):  # what a killed process was writing
                stray.unlink()

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """The points so far; the first is the original."""
        return tuple(self._state.points)

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent so far, by what it was spent on; interrupted runs included."""
        return self._state.seconds

    def network(self, step: int) -> tuple[nn.Module, tuple[PlannedGroup, ...]]:
        """Return the network of a step, not to be changed, and what its groups keep."""
        if step == 0:
            return self.original, self.whole
        if step not in self._held:
            assert self.folder is not None
            model, plan = _read_point(self.folder, self._state, step, self.original)
            self._held[step] = (model, plan.groups)
        return self._held[step]

    def add(
        self,
        record: StepRecord,
        model: nn.Module,
        groups: Sequence[PlannedGroup],
        plan: Callable[[], Plan],
    ) -> None:
        """Keep a point that was just visited.

        Parameters
        ----------
        record : StepRecord
        model : nn.Module
        groups : sequence of PlannedGroup
        plan : callable
            Makes the plan, where it is to be written.
        """
        if record.good:  # later cuts start from here
            self._held = {record.step: (model, tuple(groups))}
        self._state.points.append(record)
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if record.step > 0:
                name = f"{record.step:03}"
                temporary = self.folder / f".{name}.{os.getpid()}"
                self._state.layouts[record.step] = write_tensors(model, temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                write_atomic(self.folder / f"{name}.json", plan().to_json())
                # safetensors writes for the owner alone; the folder has one way of reading
                temporary.chmod((self.folder / f"{name}.json").stat().st_mode)
                temporary.replace(self.folder / f"{name}.safetensors")
            self._write()
        except OSError as error:
            raise DebrideError(
                f"cannot write '{self.folder}': {error.strerror or error}"
            ) from error
        if not self.keep_all and record.good:
            for step in [step for step in self._state.layouts if step < record.step]:
                del self._state.layouts[step]
                for suffix in ("safetensors", "json"):
                    (self.folder / f"{step:03}.{suffix}").unlink(missing_ok=True)

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Keep nothing of a pruning that is refused before its first step is done."""
        try:
            yield
        except DebrideError:
            if len(self.records) == 1:
                self.discard()
            raise

    def discard(self) -> None:
        """Remove what is kept on disk, and its folder where nothing else is in it."""
        if self.folder is None:
            return
        # the state first: what is left after a kill then counts as nothing
        for file in sorted(self.folder.glob("*"), key=lambda file: file.name != STATE):
            file.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _write(self) -> None:
        assert self.folder is not None
        write_atomic(self.folder / STATE, _FORM.dump_json(self._state, indent=1))


def check_points(folder: Path, settings: Mapping[str, Any]) -> int:
    """Return how many steps of unfinished pruning a folder holds, before any image is read.

    Parameters
    ----------
    settings
        What is already known of the settings that `Points` will compare.

    Raises
    ------
    DebrideError
        When the state is damaged or belongs to a pruning with other settings.
    """
    inner = folder / UNFINISHED_POINTS
    if not (inner / STATE).is_file():
        return 0
    found = read_state(inner)
    _same_settings(inner, found.settings, json.loads(json.dumps(dict(settings))))
    return len(found.points) - 1


def read_point(folder: Path, step: int, original: nn.Module) -> tuple[nn.Module, Plan]:
    """Read a visited network, without any work done anew, and its plan.

    Parameters
    ----------
    folder
        That holds ``state.json``.
    step
        Which point.
    original
        The network before any cut; untouched.

    Raises
    ------
    DebrideError
        When a file is missing or damaged, or `original` has other weights.
    """
    state = read_state(folder)
    if state.network != weights_hash(original):
        raise DebrideError(
            f"'{folder}' was made from a network of other weights: open it with the --model that "
            "the search was given"
        )
    return _read_point(folder, state, step, original)


def read_state(folder: Path) -> _State:
    """Read ``state.json``.

    Raises
    ------
    DebrideError
        When it is not there or damaged.
    """
    path = folder / STATE
    try:
        state = _FORM.validate_json(path.read_bytes())
    except OSError as error:
        raise DebrideError(f"cannot read '{path}': {error.strerror or error}") from None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DebrideError(f"'{path}' is damaged ({reason}): delete it to start anew") from None
    if state.schema_version != SCHEMA_VERSION:
        raise DebrideError(
            f"'{path}' has schema version {state.schema_version}, this Debride reads "
            f"{SCHEMA_VERSION}: go on with the version that wrote it"
        )
    return state


def _read_point(
    folder: Path, state: _State, step: int, original: nn.Module
) -> tuple[nn.Module, Plan]:
    path = folder / f"{step:03}.json"
    try:
        plan = Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DebrideError(f"cannot read '{path}': {error}") from None
    if step not in state.layouts:
        raise DebrideError(f"'{folder / STATE}' is damaged: it does not know point {step}")
    device = next((tensor.device for tensor in original.parameters()), torch.device("cpu"))
    model = apply(original, plan)
    read_tensors(model, folder / f"{step:03}.safetensors", state.layouts[step])
    return model.to(device), plan


def _same_settings(folder: Path, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    different = [
        f"{name} {_said(kept.get(name))} instead of {_said(value)}"
        for name, value in given.items()
        if kept.get(name) != value
    ]
    if different:
        raise _other(folder, ", ".join(different))


def _said(value: Any) -> str:
    return "left out" if value is None else str(value)


def _other(folder: Path, what: str) -> DebrideError:
    return DebrideError(
        f"'{folder.parent}' holds an unfinished pruning with {what}: finish it with the settings "
        f"it began with, or delete '{folder}' to start anew"
    )
