"""The way of ``debride export``: write ONNX, compare with PyTorch, say how to use the file."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from debride import screens
from debride.artifact.bundle import Bundle, read_bundle
from debride.artifact.onnx import (
    INPUT,
    OUTPUT,
    TOLERANCE,
    OnnxNetwork,
    Parity,
    check_installed,
    compare,
    export_onnx,
)
from debride.artifact.quantisation import quantise
from debride.artifact.reading import sha256
from debride.data.images import ImageSource, open_images
from debride.data.loading import loader, sample
from debride.errors import DebrideError
from debride.evidence.speed import measure_speed
from debride.progress import track
from debride.provenance import versions

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from debride.evidence.evidence import Speed
    from debride.settings import ExportSettings

SCHEMA_VERSION = 1
BATCH = 16
_MEANING = {
    "multiclass": "logits: softmax over the classes gives probabilities",
    "multilabel": "logits: the sigmoid of each gives the probability of its class",
    "binary": "one logit: its sigmoid is the probability of the second class",
    None: "what the network returns",
}


@dataclass(frozen=True)
class _Written:
    """One ONNX file and what was found out about it."""

    name: str
    sha256: str
    bytes: int
    parity: Parity


def export(settings: ExportSettings) -> None:
    """Write an ONNX file that was compared with its network, and how to use it.

    Raises
    ------
    DebrideError
        When the folder, the images or the place to write are not as they should be, the network
        cannot be exported, or the file computes something else; nothing is written then.
    """
    check_installed()
    out = settings.out
    for there in (path for path in _belonging(out) if path.exists() and not settings.overwrite):
        raise DebrideError(f"'{there}' is already there: give another --out, or --overwrite")
    if not Path(settings.model).is_dir():
        raise DebrideError(
            f"no folder '{settings.model}': give --model a folder that debride train or prune wrote"
        )
    bundle = read_bundle(settings.model, trust=settings.trust)
    images = _open_images(settings, bundle)
    model = bundle.model.float()
    screens.say("network", _about(bundle))
    screens.say("images", images.how)
    with _staged(out) as stage:
        file, small, data, description = _belonging(stage / out.name)
        opset = export_onnx(model, images.compared, file, notes=_notes(bundle))
        parity = _compare(bundle, file, images)
        if not parity.passed:
            _refuse_or_warn(parity, settings.force)
        written = [_describe(file, parity)]
        latency = None
        if images.calibration is not None:
            batches = (batch["image"] for batch in track(images.calibration, "calibrating"))
            quantise(file, small, batches, per_channel=settings.per_channel)
            written.append(_describe(small, _compare(bundle, small, images)))
            latency = measure_speed(OnnxNetwork(small), images.compared, original=OnnxNetwork(file))
        content = _content(settings, bundle, images, opset, written, latency)
        if data.exists():
            content["files"].append({"name": data.name, "sha256": sha256(data)})
        description.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    _show(written, opset, images.compared, latency, out)


@dataclass(frozen=True)
class _Images:
    """The images to compare on, and batches of those to calibrate on."""

    how: str
    compared: Tensor
    calibration: DataLoader[Any] | None = None


def _open_images(settings: ExportSettings, bundle: Bundle) -> _Images:
    prepared = bundle.preprocessing
    if settings.data is None:
        spec = bundle.spec
        assert spec is not None  # read_bundle has built it
        stated = spec if prepared is None else prepared
        shape = (settings.check, stated.channels, *stated.spatial)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(settings.seed))
        return _Images(f"{settings.check} of random noise, as no --data is given", noise)
    if prepared is None:
        raise DebrideError(
            f"'{bundle.folder}' does not say how images are prepared: leave out --data"
        )
    source = open_images(settings.data, classes=bundle.classes, seed=settings.seed)
    split = "test" if source.splits.get("test") else "val"
    drawn = _drawn(source, split, settings.check, settings.seed)
    how = f"{len(drawn)} {screens.NAMES[split]} images of {source.name}"
    batches = loader(source, split, prepared, batch_size=BATCH, indices=drawn)
    compared = torch.cat([batch["image"] for batch in track(batches, "reading images")])
    if not settings.int8:
        return _Images(how, compared)
    drawn = _drawn(source, "train", settings.calibration, settings.seed)
    calibration = loader(source, "train", prepared, batch_size=BATCH, indices=drawn)
    return _Images(f"{how}; calibrated on {len(drawn)} training images", compared, calibration)


def _drawn(source: ImageSource, split: str, count: int, seed: int) -> list[int]:
    """Draw `count` images evenly from the classes."""
    drawn = sample(source, split, math.ceil(count / len(source.classes)), seed=seed)
    if len(drawn) > count:  # sorted by position: thin out, so that no class is left out
        drawn = [drawn[i * len(drawn) // count] for i in range(count)]
    return list(drawn)


def _belonging(out: Path) -> tuple[Path, Path, Path, Path]:
    """Name the files of an export: float32, int8, weights beyond 2 GB, and what tells of them.

    The last is written last, so that what it says is there when it is.
    """
    data = out.with_name(f"{out.name}.data")
    return out, out.with_suffix(".int8.onnx"), data, out.with_suffix(".export.json")


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Give an empty folder whose files take the place of earlier ones when the block ends well."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            yield Path(folder)
            for target in _belonging(out):
                made = Path(folder) / target.name
                if made.exists():
                    made.replace(target)
                else:  # of an earlier export with other settings
                    target.unlink(missing_ok=True)
    except OSError as error:
        raise DebrideError(f"cannot write '{out}': {error.strerror or error}") from error


def _compare(bundle: Bundle, file: Path, images: _Images) -> Parity:
    # the first alone: a batch of one is a case of its own
    parts = [images.compared[:1], *torch.split(images.compared[1:], BATCH)]
    batches = track(parts, "comparing")
    multilabel = bundle.task == "multilabel"
    return compare(bundle.model, OnnxNetwork(file), batches, multilabel=multilabel)


def _refuse_or_warn(parity: Parity, force: bool) -> None:
    message = (
        f"the ONNX file differs from the network by {parity.relative:.1e} of its largest output "
        f"({TOLERANCE:g} is allowed)"
    )
    if not force:
        raise DebrideError(f"{message}: nothing was written; write it all the same with --force")
    screens.warn(message)


def _describe(file: Path, parity: Parity) -> _Written:
    return _Written(file.name, sha256(file), file.stat().st_size, parity)


def _entry(written: _Written) -> dict[str, Any]:
    """Give a file's entry; JSON has no word for a difference that is not finite."""
    entry = dataclasses.asdict(written)
    for name, value in entry["parity"].items():
        entry["parity"][name] = value if math.isfinite(value) else None
    return entry


def _about(bundle: Bundle) -> str:
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    name = bundle.spec.source if bundle.spec is not None else type(bundle.model).__name__
    kept = f", {bundle.plan.macs_kept:.0%} of the MACs kept" if bundle.plan is not None else ""
    return f"{name}, {screens.amount(parameters)} parameters{kept}, of {bundle.folder}"


def _notes(bundle: Bundle) -> dict[str, str]:
    """Give what a stranger who has nothing but the ONNX file needs to know."""
    notes = {
        "debride": versions()["debride"],
        "classes": json.dumps(bundle.classes),
        "output": _MEANING[bundle.task],
    }
    if bundle.preprocessing is not None:
        notes["preprocessing"] = bundle.preprocessing.model_dump_json()
    return notes


def _content(
    settings: ExportSettings,
    bundle: Bundle,
    images: _Images,
    opset: int,
    written: Sequence[_Written],
    latency: Speed | None,
) -> dict[str, Any]:
    prepared = bundle.preprocessing
    packages = ("onnx", "onnxscript", "onnxruntime")
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "input": {
            "name": INPUT,
            "type": "float32",
            "shape": ["batch", *images.compared.shape[1:]],
            "preprocessing": None if prepared is None else prepared.model_dump(mode="json"),
            "steps": None if prepared is None else _steps(prepared.model_dump()),
        },
        "output": {
            "name": OUTPUT,
            "task": bundle.task,
            "meaning": _MEANING[bundle.task],
            "classes": bundle.classes,
        },
        "opset": opset,
        "files": [_entry(each) for each in written],
        "compared_on": images.how,
        "tolerance": TOLERANCE,
        "made_from": {
            "network": None if bundle.spec is None else bundle.spec.source,
            "weights_sha256": sha256(bundle.folder / "model.safetensors"),
        },
        "versions": versions() | {name: importlib.metadata.version(name) for name in packages},
        "seed": settings.seed,
    }
    if latency is not None:
        content["int8"] = {"per_channel": settings.per_channel, "latency_ms": latency}
    return content


def _steps(prepared: Mapping[str, Any]) -> list[str]:
    """Say in words how an image becomes the input."""
    side, crop = prepared["resize"], prepared["crop"]
    pixels = "×".join(map(str, prepared["spatial"]))
    steps = [] if side is None else [f"scale the shorter side to {side} pixels"]
    steps += [] if crop is None else [f"cut {crop} pixels a side out of the centre"]
    kind = "grey" if prepared["channels"] == 1 else "RGB"
    return [
        *steps,
        f"scale to {pixels} pixels, {prepared['channels']} channel(s) ({kind}), channels first",
        "divide so that pixels lie in 0..1 (8-bit images: by 255)",
        "subtract the mean and divide by the standard deviation of each channel",
    ]


def _show(
    written: Sequence[_Written], opset: int, example: Tensor, latency: Speed | None, out: Path
) -> None:
    shape = ", ".join(map(str, ("batch", *example.shape[1:])))
    screens.say("input", f"'{INPUT}' ({shape}) float32; output '{OUTPUT}'; opset {opset}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("float32", "int8")[: len(written)]:
        table.add_column(name, justify="right")
    parities = [each.parity for each in written]
    table.add_row("size", *(screens.size(each.bytes) for each in written))
    table.add_row("max |ONNX − PyTorch|", *(f"{each.max_abs:.1e}" for each in parities))
    table.add_row("of the largest output", *(f"{each.relative:.1e}" for each in parities))
    table.add_row("same decision (top-1)", *(f"{each.top1:.1%}" for each in parities))
    for entry in latency["batches"] if latency is not None else ():
        both = (entry["original"], entry["model"])
        table.add_row(
            f"latency, batch {entry['batch']}",
            *(f"{each['median']:.2f} ms" for each in both if each is not None),
        )
    screens.show(table)
    names = [each.name for each in written]
    screens.say("written", ", ".join(str(out.with_name(name)) for name in names))
    screens.say("use it", f"{_belonging(out)[-1]} says how")
