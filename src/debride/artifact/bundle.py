"""The folder that a network is kept in, written whole or not at all, read without pickle."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

import debride
from debride.artifact.building import check_task, float_type, network_of
from debride.artifact.manifest import (
    EVIDENCE,
    MANIFEST,
    PLAN,
    RUN,
    WEIGHTS,
    Hashed,
    Manifest,
    own_hash,
    read_manifest,
)
from debride.artifact.reading import read_json, sha256
from debride.artifact.tensors import write_tensors
from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.files import POINTS, UNFINISHED, UNFINISHED_POINTS, link_or_copy, staged_folder
from debride.models.outputs import Task, logits, probabilities
from debride.models.registry import first_line
from debride.models.spec import ModelSpec
from debride.planning.plan import Plan

if TYPE_CHECKING:
    from debride.evidence import Evidence
    from debride.pruning import Pruned

_HASHED: tuple[Hashed, ...] = get_args(Hashed)
_OURS = {
    *_HASHED, "predict.py", "report.html", "card.md", "curve.csv", "curve.svg", POINTS, UNFINISHED,
    UNFINISHED_POINTS,
}  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A network and all that its folder says about it.

    Attributes
    ----------
    model
        In evaluation mode.
    spec, preprocessing
        None where the network was saved without them.
    plan
        None for a network that was not pruned.
    """

    model: nn.Module
    spec: ModelSpec | None
    preprocessing: Preprocessing | None
    classes: tuple[str, ...]
    task: Task | None
    plan: Plan | None
    run: dict[str, Any]
    evidence: dict[str, Any] | None
    folder: Path

    def classify(self, image: str | Path) -> list[tuple[str, float]]:
        """Give the class of an image file and its probability; multi-label: all above one half.

        Raises
        ------
        DebrideError
            When the image cannot be read, or the folder does not say how images are prepared.
        """
        if self.preprocessing is None or self.task is None:
            raise DebrideError(
                f"'{self.folder}' does not say how images are prepared: use the network from Python"
            )
        batch = self.preprocessing.read(image).unsqueeze(0)
        device = next((tensor.device for tensor in self.model.parameters()), batch.device)
        with torch.inference_mode():
            chances = probabilities(logits(self.model(batch.to(device))), self.task)[0].tolist()
        named = list(zip(self.classes, chances, strict=True))
        if self.task == "multilabel":
            return [pair for pair in named if pair[1] > 0.5]
        return [max(named, key=lambda pair: pair[1])]


def write_bundle(
    folder: str | Path,
    model: nn.Module,
    *,
    spec: ModelSpec | None,
    preprocessing: Preprocessing | None,
    classes: Sequence[str],
    task: Task | None,
    plan: Plan | None = None,
    run: Mapping[str, Any],
    evidence: Evidence | None = None,
    texts: Mapping[str, str] | None = None,
    points: Path | None = None,
) -> None:
    """Write a network into a folder, which takes the place of an earlier one at once.

    Parameters
    ----------
    spec
        How to build the network before `plan` is applied; None for the user's own.
    texts
        Further files and what is in them, the report among them.
    points
        Folder of the networks that a search visited; it may be the one that is replaced.

    Raises
    ------
    DebrideError
        When the folder holds other things, the network keeps more than tensors, or writing fails;
        what was there stays.
    """
    folder = Path(folder)
    foreign = _foreign(folder)
    with staged_folder(folder) as stage:
        layout = write_tensors(model, stage / WEIGHTS)
        if plan is not None:
            (stage / PLAN).write_text(plan.to_json(), encoding="utf-8")
        _write_findings(stage, run, evidence, texts)
        manifest = Manifest(
            spec=spec,
            network=f"{type(model).__module__}.{type(model).__qualname__}",
            classes=tuple(classes),
            task=task,
            preprocessing=preprocessing,
            dtype=float_type(model),
            tied=dict(layout.tied),
            channels_last=layout.channels_last,
            sha256={name: sha256(stage / name) for name in _HASHED if (stage / name).exists()},
        )
        content = manifest.model_dump(mode="json")
        content["sha256"][MANIFEST] = own_hash(content)
        _write_json(stage / MANIFEST, content)
        if points is not None:
            shutil.copytree(points, stage / POINTS, copy_function=link_or_copy)
        # safetensors writes for the owner alone; the folder has one way of reading.
        (stage / WEIGHTS).chmod((stage / RUN).stat().st_mode)
        if spec is not None and preprocessing is not None:
            (stage / "predict.py").write_text(_predict_script(spec), encoding="utf-8")
        _copy(foreign, stage)


def write_findings(
    folder: str | Path,
    *,
    plan: Plan | None,
    run: Mapping[str, Any],
    evidence: Evidence,
    texts: Mapping[str, str],
) -> None:
    """Write what was measured, without a network, into a folder that is replaced at once.

    Raises
    ------
    DebrideError
        When the folder holds other things, or writing fails; what was there stays.
    """
    folder = Path(folder)
    foreign = _foreign(folder)
    with staged_folder(folder) as stage:
        _write_findings(stage, run, evidence, texts)
        if plan is not None:
            (stage / PLAN).write_text(plan.to_json(), encoding="utf-8")
        _copy(foreign, stage)


def read_bundle(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    trust: bool = False,
    device: str | torch.device = "cpu",
) -> Bundle:
    """Read the network of a folder; its outputs equal those of the saved network bit by bit.

    Parameters
    ----------
    model
        The network before pruning, for one that the folder cannot build; it is left as it is.
    trust
        Allows a network that is built by ``package.module:function``.

    Raises
    ------
    DebrideError
        When anything in the folder is missing, damaged, changed, too new or not allowed.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
        for name, expected in manifest.sha256.items():
            if name != MANIFEST:  # which has checked itself
                _check_hash(folder / name, expected)
        network, plan = network_of(folder, manifest, model, trust)
        check_task(folder, manifest)
        evidence = folder / EVIDENCE
        bundle = Bundle(
            model=network,
            spec=manifest.spec,
            preprocessing=manifest.preprocessing,
            classes=manifest.classes,
            task=manifest.task,
            plan=plan,
            run=read_json(folder / RUN, finite=False),
            evidence=read_json(evidence) if evidence.exists() else None,
            folder=folder,
        )
    except DebrideError as error:
        raise DebrideError(_clipped(str(error))) from error
    except Exception as error:  # whatever a constructor makes of what a stranger wrote
        raise DebrideError(
            f"the network of '{folder}' cannot be built, as the folder is damaged or other library "
            f"versions wrote it: {type(error).__name__}: {_clipped(first_line(error))}"
        ) from error
    network.to(device).eval()
    return bundle


def save(pruned: Pruned, folder: str | Path) -> None:
    """Write a pruned network into a folder, without pickle.

    The network is the user's own object, so `load` asks for the unpruned network again. (The
    commands ``debride train`` and ``prune`` know how theirs are built, and ``load`` needs nothing.)
    """
    evidence = pruned.evidence
    run = {
        "command": "debride.save",
        "versions": {
            "debride": debride.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "settings": dict(pruned.settings),
        "history": [dataclasses.asdict(record) for record in pruned.history],
    }
    visited = Path(folder) / UNFINISHED_POINTS
    if pruned.curve is not None:
        run["curve"] = pruned.curve.to_dict()
    if pruned.finetuned is not None:
        run["finetuning"] = dataclasses.asdict(pruned.finetuned)
    write_bundle(
        folder,
        pruned.model,
        spec=None,
        preprocessing=None,
        classes=evidence.classes if evidence is not None else (),
        task=evidence.task if evidence is not None else None,
        plan=pruned.plan,
        run=run,
        evidence=evidence,
        texts=None if pruned.curve is None else {"curve.csv": pruned.curve.to_csv()},
        points=visited if pruned.curve is not None and visited.is_dir() else None,
    )


def load(folder: str | Path, model: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Give the network of a folder back, in evaluation mode, with bit-equal outputs.

    Parameters
    ----------
    model
        The unpruned network, where it is of the user's own class; it is left as it is.
    trust
        Allows a network that is built by ``package.module:function``.

    Raises
    ------
    DebrideError
        When anything in the folder is missing, damaged, changed, too new or not allowed.
    """
    return read_bundle(folder, model=model, trust=trust).model


def _clipped(said: str) -> str:
    """Shorten what quotes a stranger's words, and take control characters out."""
    said = "".join(letter if letter.isprintable() else " " for letter in said)
    return said if len(said) <= 600 else f"{said[:400]} … {said[-150:]}"


def _check_hash(path: Path, expected: str) -> None:
    if sha256(path) != expected:
        raise DebrideError(
            f"'{path}' is not the file that was written with the rest of its folder (its SHA-256 "
            "differs from model.json): copy the folder again from where it was made"
        )


def _foreign(folder: Path) -> list[Path]:
    """List what is in a run's folder besides the run, which a new run there must not delete."""
    if not folder.is_dir():
        return []
    entries = list(folder.iterdir())
    foreign = [entry for entry in entries if entry.name not in _OURS]
    if foreign and len(foreign) == len(entries):
        raise DebrideError(
            f"'{folder}' holds something that is not Debride's: give a new folder to write to"
        )
    return foreign


def _copy(entries: Sequence[Path], folder: Path) -> None:
    for entry in entries:
        target = folder / entry.name
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True)
        else:
            shutil.copy2(entry, target, follow_symlinks=False)


def _write_findings(
    folder: Path,
    run: Mapping[str, Any],
    evidence: Evidence | None,
    texts: Mapping[str, str] | None,
) -> None:
    _write_json(folder / "run.json", dict(run))
    if evidence is not None:
        _write_json(folder / "evidence.json", evidence.to_dict())
        evidence.save_samples(folder / "heatmaps.safetensors")
    for name, text in (texts or {}).items():
        (folder / name).write_text(text, encoding="utf-8")


def _predict_script(spec: ModelSpec) -> str:
    script = importlib.resources.files("debride.artifact").joinpath("predict.py.txt").read_text()
    if spec.source.partition(":")[0] in ("torchvision", "timm", "monai"):
        return script
    return script.replace("parent)", "parent, trust=True)")


def _write_json(path: Path, content: Any) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except TypeError as error:
        raise DebrideError(f"'{path.name}' cannot be written as JSON: {error}") from error
