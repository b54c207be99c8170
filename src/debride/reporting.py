"""The work behind ``debride report``: from the folders of runs, without new computation."""

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
from debride.opening import drawn_by
from debride.planning.plan import Plan
from debride.report import CARD, REPORT, Run, compare_runs, pages

if TYPE_CHECKING:
    from debride.settings import ReportSettings


def report(settings: ReportSettings) -> None:
    """Write the report and model card of a finished run anew, or a page that compares several."""
    if len(settings.runs) > 1:
        return _compare(settings)
    folder = settings.runs[0]
    run, evidence = _read(folder)
    plan_file = folder / "plan.json"
    plan = Plan.from_json(read_text(plan_file, "RUN")) if plan_file.exists() else None
    target = settings.out or folder / REPORT
    beside = folder / CARD if settings.out is None else target.with_suffix(".md")
    if beside == target:
        raise DebrideError(f"'{target}' is the model card's name: give --out a file like page.html")
    texts = pages(
        run, evidence, plan, show_names=settings.show_names, names=_names(settings, run, evidence)
    )
    write_atomic(target, texts[REPORT])
    write_atomic(beside, texts[CARD])
    screens.say("report", str(target))
    return None


def _compare(settings: ReportSettings) -> None:
    read = [_read(folder) for folder in settings.runs]
    runs = [
        Run(name, run, evidence)
        for name, (run, evidence) in zip(called(settings.runs), read, strict=True)
    ]
    names = _names(settings, *read[0])
    target = settings.out or Path("comparison.html")
    write_atomic(target, compare_runs(runs, show_names=settings.show_names, names=names))
    screens.say("report", str(target))


def called(folders: tuple[Path, ...]) -> list[str]:
    """Give what runs are called: their folder's name, numbered where two have the same.

    Examples
    --------
    >>> called((Path("runs/half"), Path("old/half"), Path("runs/tenth")))
    ['half', 'half (2)', 'tenth']
    """
    names: list[str] = []
    for folder in folders:
        name = folder.resolve().name
        count = sum(folder.resolve().name == name for folder in folders[: len(names)])
        names.append(f"{name} ({count + 1})" if count else name)
    return names


def _read(folder: Path) -> tuple[dict[str, Any], Evidence]:
    run = _read_json(folder / "run.json")
    if not isinstance(run.get("settings"), dict) or "command" not in run:
        raise DebrideError(f"'{folder / 'run.json'}' is damaged: make the run again")
    evidence = Evidence.from_dict(_read_json(folder / "evidence.json"))
    return run, evidence.load_samples(folder / "heatmaps.safetensors")


def _names(
    settings: ReportSettings, run: Mapping[str, Any], evidence: Evidence
) -> dict[int, str] | None:
    return names_of(_same_images(run), evidence.split) if settings.show_names else None


def _same_images(run: Mapping[str, Any]) -> ImageSource:
    """Open the images of a run again, for their names; refuse if they have changed."""
    stored, data = run["settings"], run.get("data")
    if not isinstance(data, dict) or not {"classes", "sha256"} <= set(data):
        raise DebrideError("run.json does not say which images these were: leave --show-names out")
    share, seed = drawn_by(run) or (0.15, 0)
    source = open_images(
        stored.get("data", ""),
        classes=data["classes"],
        skip_bad=stored.get("skip_bad", False),
        validation=share,
        seed=seed,
    )
    if source.fingerprint() != data["sha256"]:
        raise DebrideError(
            f"the images in '{stored.get('data')}' are not those of the run any more: "
            "leave --show-names out"
        )
    return source


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, "RUN"))
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
    except NotADirectoryError:
        raise DebrideError(f"'{path.parent}' is a file: give the folder of a run") from None
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise DebrideError(f"no folder '{path.parent}': check {flag}") from None
        raise DebrideError(f"no file '{path}': check {flag}") from None
    except UnicodeDecodeError:
        raise DebrideError(f"'{path}' is no text file: check {flag}") from None
    except OSError as error:
        raise DebrideError(f"cannot read '{path}': {error.strerror}") from None
