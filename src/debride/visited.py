"""What a search leaves: its curve as a table and a picture, and any other network it visited."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import nn

from debride.errors import DebrideError
from debride.files import POINTS
from debride.planning.plan import Plan
from debride.planning.search import Curve
from debride.points import read_point
from debride.report.curve import picture


@dataclass(frozen=True)
class Taken:
    """A network that a search visited, with the curve on which it is the chosen one."""

    model: nn.Module
    plan: Plan
    curve: Curve


def take(folder: Path, macs: float, original: nn.Module) -> Taken:
    """Take the largest network of at most a share of the MACs from a finished search.

    Parameters
    ----------
    folder
        What ``debride prune --max-drop`` wrote.
    macs
        Share of the original's multiply-accumulates.
    original
        The network before any cut; untouched.

    Raises
    ------
    DebrideError
        Where nothing so small was visited, or the folder is damaged or not that of a search.
    """
    path = folder / "run.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["curve"]
        stored.pop("evaluations")
        curve = TypeAdapter(Curve).validate_python(stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise DebrideError(
            f"'{path}' holds no curve ({type(error).__name__}): give --from a finished search"
        ) from None
    point = curve.at(macs)
    model, plan = read_point(folder / POINTS, point.step, original)
    return Taken(model, plan, dataclasses.replace(curve, chosen=point.step))


def curve_files(curve: Curve, classes: Sequence[str]) -> dict[str, str]:
    """Return the files ``curve.csv`` and ``curve.svg``."""
    return {
        "curve.csv": curve.to_csv(),
        "curve.svg": picture(curve.to_dict(), classes, alone=True),
    }
