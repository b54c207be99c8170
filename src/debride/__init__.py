"""Debride: cut a medical-imaging network down to the parts that carry its decisions.

The public names load on first use, so that ``import debride`` stays cheap.

Examples
--------
>>> import debride
>>> sorted(debride.__all__)[:4]
['DebrideError', 'FineTuning', 'apply', 'attribute']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from debride.errors import DebrideError

if TYPE_CHECKING:
    from debride.artifact.bundle import load, save
    from debride.criteria import score
    from debride.evidence import evaluate
    from debride.planning.make import plan
    from debride.pruning import prune
    from debride.recovery.finetune import FineTuning
    from debride.relevance.methods import attribute
    from debride.surgery.removal import apply

__version__ = "0.1.0"

__all__ = [
    "DebrideError",
    "FineTuning",
    "apply",
    "attribute",
    "evaluate",
    "load",
    "plan",
    "prune",
    "save",
    "score",
]

_HOMES = {
    "FineTuning": "debride.recovery.finetune",
    "apply": "debride.surgery.removal",
    "attribute": "debride.relevance.methods",
    "evaluate": "debride.evidence",
    "load": "debride.artifact.bundle",
    "plan": "debride.planning.make",
    "prune": "debride.pruning",
    "save": "debride.artifact.bundle",
    "score": "debride.criteria",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name when the name is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'debride' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
