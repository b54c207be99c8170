"""The work behind ``debride report``: a run's report, written anew from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debride import screens
from debride.data.images import ImageSource, open_images
from debride.errors import DebrideError
from debride.evidence import Evidence
from debride.files import write_atomic
from debride.planning.plan import Plan
from debride.report import render

if TYPE_CHECKING:
    from debride.settings import ReportSettings


def report(settings: ReportSettings) -> None:
    """Write the report of a finished run anew, from the files in its folder."""
    folder = settings.run
    run = _read_json(folder / "run.json")
    if not isinstance(run.get("settings"), dict) or "command" not in run:
        raise DebrideError(f"'{folder / 'run.json'}' is damaged: make the run again")
    evidence = Evidence.from_dict(_read_json(folder / "evidence.json"))
    evidence = evidence.load_samples(folder / "heatmaps.safetensors")
    plan_file = folder / "plan.json"
    plan = Plan.from_json(read_text(plan_file, "--run")) if plan_file.exists() else None
    names = None
    if settings.show_names:
        source = _same_images(run)
        names = names_of(source, evidence.split)
    target = settings.out or folder / "report.html"
    html = render(run, evidence, plan, show_names=settings.show_names, names=names)
    write_atomic(target, html)
    screens.say("report", str(target))


def _same_images(run: Mapping[str, Any]) -> ImageSource:
    """Open the images of a run again, for their names; refuse if they have changed."""
    stored, data = run["settings"], run.get("data")
    if not isinstance(data, dict) or not {"classes", "sha256"} <= set(data):
        raise DebrideError("run.json does not say which images these were: leave --show-names out")
    source = open_images(
        stored.get("data", ""),
        classes=data["classes"],
        skip_bad=stored.get("skip_bad", False),
        validation=stored.get("validation", 0.15),
        seed=stored.get("seed", 0),
    )
    if source.fingerprint() != data["sha256"]:
        raise DebrideError(
            f"the images in '{stored.get('data')}' are not those of the run any more: "
            "leave --show-names out"
        )
    return source


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, "--run"))
    except ValueError as error:
        raise DebrideError(f"'{path}' is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DebrideError(f"'{path}' is not what Debride wrote: make the run again")
    return content


def names_of(source: ImageSource, split: str) -> dict[int, str]:
    """Give the file name of each image of a split, by position."""
    return {index: record.name for index, record in enumerate(source.splits[split])}


def read_text(path: Path, flag: str) -> str:
    """Read a text file that a flag names."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DebrideError(f"no file '{path}': check {flag}") from None
    except UnicodeDecodeError:
        raise DebrideError(f"'{path}' is no text file: check {flag}") from None
    except OSError as error:
        raise DebrideError(f"cannot read '{path}': {error.strerror}") from None
