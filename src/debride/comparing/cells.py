"""One cell of a comparison: the network is trained, cut through all budgets, measured on test."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debride import workflow
from debride.artifact.manifest import MANIFEST, WEIGHTS, read_manifest
from debride.comparing.grid import Cell, Study
from debride.comparing.measuring import Measuring
from debride.criteria import with_defaults
from debride.errors import DebrideError
from debride.files import write_atomic
from debride.finetuning import training_images, tuning_of
from debride.opening import Job, open_job
from debride.planning.plan import PlannedGroup
from debride.planning.search import StepRecord
from debride.provenance import Stopwatch, versions
from debride.pruning import prune
from debride.recovery.finetune import finetune
from debride.validation import Validation

SCHEMA_VERSION = 1
VISITS = "visits.json"
_TRAINED = (
    "model weights image_size resize crop channels mean std classes validation epochs lr seed "
    "batch_size"
).split()
"""Settings of a trained network that must be those of the grid."""
_PASSED_ON = "criterion rules ranking normalise floor round_to protect residual_width recovery seed"
_KEPT = "step macs_kept params_kept units_kept before_recovery after_recovery normalise".split()

Point = dict[str, Any]


def is_trained(study: Study) -> bool:
    """Tell whether a study's network is there.

    Raises
    ------
    DebrideError
        When it was trained with other settings than the grid's.
    """
    if study.train is None:
        return True
    if not (study.base / MANIFEST).is_file():
        return False
    stored = json.loads((study.base / "run.json").read_text(encoding="utf-8"))["settings"]
    asked = study.train.model_dump(mode="json", include=set(_TRAINED))
    for name in _TRAINED:
        if stored.get(name) != asked[name]:
            raise DebrideError(
                f"'{study.base}' was trained with {name} {stored.get(name)}, the grid says "
                f"{asked[name]}: delete that folder, or call the network otherwise"
            )
    return True


def train(study: Study) -> str:
    """Train a study's network, or go on with it; return its name."""
    assert study.train is not None
    workflow.train(study.train)
    return study.name


def result_path(cell: Cell) -> Path:
    """Return the file that a finished cell is in."""
    return cell.prune.out.with_name(f"{cell.criterion}.json")


def read_cell(cell: Cell) -> dict[str, Any] | None:
    """Read a finished cell; None where it is not finished.

    Raises
    ------
    DebrideError
        When it is damaged, or was made with other settings than the grid's.
    """
    path = result_path(cell)
    if not path.is_file():
        return None
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        stored, _ = dict(found["settings"]), found["points"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DebrideError(f"'{path}' is damaged ({error}): delete it to make it anew") from None
    _check_settings(path, stored, cell)
    if (cell.study.base / MANIFEST).is_file():
        _check_made_of(path, found, cell, {"network_sha256": _network(cell)})
    return found


def _network(cell: Cell) -> str:
    """Return the hash of a study's weights."""
    return read_manifest(cell.study.base).sha256[WEIGHTS]


def _check_made_of(
    path: Path, found: Mapping[str, Any], cell: Cell, now: Mapping[str, str]
) -> None:
    """Refuse what was made of another network or other images; earlier cells name no network."""
    then = {
        "network_sha256": found.get("network_sha256"),
        "images_sha256": found.get("images_sha256", found.get("images", {}).get("sha256")),
    }
    for what, is_now in now.items():
        if then[what] not in (None, is_now):
            other, name = (
                (f"another network than '{cell.study.base}' is", "network")
                if what == "network_sha256"
                else (f"other images than those of '{cell.study.data}' are", "data")
            )
            raise DebrideError(
                f"'{path}' was made of {other} now: delete it, or call the {name} otherwise"
            )


def _settings(cell: Cell) -> dict[str, Any]:
    """Return what must be the same where a cell is taken as it is, with all the options."""
    given = workflow.check_choices(cell.prune)
    return {**cell.settings, "option": with_defaults(cell.prune.criterion, given)}


def _check_settings(path: Path, stored: Mapping[str, Any], cell: Cell) -> None:
    for name, value in _settings(cell).items():
        if stored.get(name) != value:
            raise DebrideError(
                f"'{path}' was made with {name} {stored.get(name)}, the grid says {value}: delete "
                "it, or call the criterion otherwise"
            )


def run(cell: Cell) -> dict[str, Any]:
    """Cut a network through all budgets, measure every one of them, and write the cell's file.

    Validation images decide all that is to be decided; test images are measured and never looked
    at by the loop. Work that was interrupted goes on at the budget where it was.
    """
    watch = Stopwatch()
    settings = cell.prune
    job = open_job(settings)
    made_of = {"network_sha256": _network(cell), "images_sha256": job.source.fingerprint()}
    _check_network(cell, job, made_of["images_sha256"])
    with watch.part("reference"):
        chosen = job.choose(
            settings.reference,
            strategy=settings.reference_strategy,
            correct_only=settings.reference_correct,
        )
    for path in sorted(result_path(cell).parent.glob("*.json")):
        _check_made_of(path, json.loads(path.read_text(encoding="utf-8")), cell, made_of)
    visits = _Visits(cell, job, made_of)
    options = workflow.check_choices(settings)

    def go(budgets: tuple[float, ...], folder: Path, visit: Callable[..., None]) -> None:
        prune(
            job.network.model,
            job.reference(chosen),
            job.batches("val"),
            options=options,
            **{name: getattr(settings, name) for name in _PASSED_ON.split()},
            macs=budgets,
            recovery_data=job.recalibration(),
            task=job.task,
            evidence=False,
            folder=folder,
            recorded={**_settings(cell), **made_of},
            on_network=visit,
        )

    with watch.part("pruning"):
        if cell.one_shot:
            for budget in cell.budgets:
                if budget not in visits.budgets:
                    go((budget,), settings.out / f"{budget:g}", visits.at(budget))
        else:
            go(cell.budgets, settings.out, visits.at())
    document = {
        "schema_version": SCHEMA_VERSION,
        "network": cell.study.network,
        "data": cell.study.data,
        "seed": cell.study.seed,
        "criterion": cell.criterion,
        "settings": _settings(cell),
        "metric": "roc_auc" if job.task == "multilabel" else "balanced_accuracy",
        "network_sha256": made_of["network_sha256"],
        "images": {
            "sha256": made_of["images_sha256"],
            "test": len(job.source.splits[job.final_split]),
            "validation": len(job.source.splits["val"]),
            "reference": len(chosen.indices),
        },
        "points": visits.points,
        "seconds": watch.seconds(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_atomic(result_path(cell), json.dumps(document, indent=1) + "\n")
    shutil.rmtree(settings.out, ignore_errors=True)
    return document


def _check_network(cell: Cell, job: Job, images: str) -> None:
    """Refuse a network that nothing can be said of, or that was trained on other images."""
    workflow.check_whole(job)
    study = cell.study
    if study.train is not None:
        stored = json.loads((study.base / "run.json").read_text(encoding="utf-8"))
        if stored["data"]["sha256"] != images:
            raise DebrideError(
                f"'{study.base}' was trained on other images than those of '{study.data}' are "
                "now: delete that folder, or call the data otherwise"
            )
    found = workflow.checked(job, job.network.model)
    if not found.passed:
        raise DebrideError(workflow.guessing(job, found))


class _Visits:
    """What is measured of each network on the way, kept on disk as it comes."""

    def __init__(self, cell: Cell, job: Job, made_of: Mapping[str, str]) -> None:
        self.cell, self.job, self.made_of = cell, job, made_of
        self.path = cell.prune.out / VISITS
        self._points: dict[float, Point] = {}
        if self.path.is_file():
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            _check_settings(cell.prune.out, kept["settings"], cell)
            _check_made_of(cell.prune.out, kept, cell, made_of)
            self._points = {point["budget"]: point for point in kept["points"]}
        self.tuning = tuning_of(cell.prune)
        rules = job.network.rules(cell.prune.heatmap_rules)
        self.measure = Measuring(job, rules, cell.study.seed)

    @property
    def budgets(self) -> set[float]:
        """Those that are measured."""
        return set(self._points)

    @property
    def points(self) -> list[Point]:
        """The measured networks, the original first."""
        return [self._points[budget] for budget in sorted(self._points, reverse=True)]

    def at(
        self, budget: float | None = None
    ) -> Callable[[StepRecord, nn.Module, tuple[PlannedGroup, ...]], None]:
        """Return what a trajectory calls with each network; its first step is at `budget`."""

        def visit(record: StepRecord, model: nn.Module, groups: tuple[PlannedGroup, ...]) -> None:
            asked = 1.0 if record.step == 0 else budget or self.cell.budgets[record.step - 1]
            point = {
                "budget": asked,
                **{name: getattr(record, name) for name in _KEPT},
                **self.measure(model),
                "finetuned": None,
            }
            if asked in self.cell.finetune_at:
                point["finetuned"] = self._tuned(model, groups)
            self._points[asked] = point
            kept = {"settings": _settings(self.cell), **self.made_of, "points": self.points}
            write_atomic(self.path, json.dumps(kept))

        return visit

    def _tuned(self, model: nn.Module, groups: tuple[PlannedGroup, ...]) -> dict[str, Any]:
        assert self.tuning is not None
        watch, job = Stopwatch(), self.job
        small, place = copy.deepcopy(model), job.network.device
        judge = Validation(job.network.model, job.batches("val"), job.task, place)
        found = finetune(
            small,
            job.network.model,
            training_images(job),
            judge.measured,
            self.tuning,
            task=job.task,
            groups=groups,
            seed=self.cell.study.seed,
            device=place,
        )
        return {
            "after_recovery": found.after,
            "epochs": len(found.history),
            "best_epoch": found.best_epoch,
            **self.measure(small),
            "seconds": watch.seconds()["total"],
        }
