"""Where a result comes from, with what could name a person or a place taken out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_NAMES = frozenset({"skipped", "names", "files", "folder", "host", "hostname", "user", "cwd"})
"""Keys whose values name files, machines or people."""
_FIGURES = frozenset({"history", "curve", "finetuning", "settings", "schema_version", "command"})
"""Keys that the report shows in another place, or not at all."""
_LONG = frozenset({"indices", "history"})
"""Keys whose values are for ``run.json`` alone."""


def provenance(run: Mapping[str, Any], *, show_names: bool = False) -> list[tuple[str, str]]:
    """Give the facts of a run as (what, value).

    Directories are cut off every path, and values that name files or machines are counted
    or left out, unless `show_names`.

    Examples
    --------
    >>> provenance({"seed": 0, "command_line": "debride prune --data /home/eve/scans"})
    [('seed', '0'), ('command line', 'debride prune --data …/scans')]
    >>> provenance({"versions": {"torch": "2.8.0", "timm": "1.0.15"}})
    [('versions', 'torch 2.8.0 · timm 1.0.15')]
    >>> provenance({"history": [], "curve": {"chosen": 3}})
    []
    >>> provenance({"training": {"best_epoch": 7, "history": [{"epoch": 1, "loss": 1.6}]}})
    [('training', 'best epoch 7')]
    """
    return _rows({k: v for k, v in run.items() if k not in _FIGURES}, show_names)


def settings(run: Mapping[str, Any], *, show_names: bool = False) -> list[tuple[str, str]]:
    """Give the resolved settings of a run as (name, value)."""
    given = run.get("settings")
    return _rows(given, show_names) if isinstance(given, Mapping) else []


def _rows(facts: Mapping[str, Any], show_names: bool) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        label = str(key).replace("_", " ")
        if value is None or value in ("", [], (), {}) or key in _LONG:
            continue
        if key in _NAMES and not show_names:
            if isinstance(value, Sequence) and not isinstance(value, str):
                rows.append((label, f"{len(value)} (names hidden)"))
            continue
        if isinstance(value, Mapping):
            parts = _rows(value, show_names)
            rows.append((label, " · ".join(f"{part} {text}" for part, text in parts)))
        else:
            rows.append((label, _shown(value, key, show_names)))
    return rows


def _shown(value: Any, key: str, show_names: bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    parts = [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]
    is_command = key.startswith("command")
    if is_command and len(parts) == 1 and not show_names:
        try:
            parts = shlex.split(parts[0])
        except ValueError:  # an unbalanced quote
            parts = parts[0].split()
    shown = parts if show_names else [hidden(part) for part in parts]
    return (" " if is_command else ", ").join(shown)


def hidden(text: str) -> str:
    r"""Cut the directories off a path, or off every path in a sentence.

    Examples
    --------
    >>> hidden("--data=/srv/the clinic/scans"), hidden("read C:\\eve\\x.csv."), hidden("a/b/")
    ('--data=…/scans', 'read …/x.csv.', '…/b')
    """
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    # a value that begins as a path is one, with whatever blanks are in it
    if re.match(r"[/\\~.]|[A-Za-z]:[/\\]", value):
        return flag + equals + _last(value)
    return flag + equals + re.sub(r"[^\s,;'\"]*[/\\][^\s,;'\"]*", lambda m: _last(m.group()), value)


def _last(path: str) -> str:
    if not re.search(r"[/\\]", path):
        return path
    parts = [part for part in re.split(r"[/\\]+", path) if part]
    return f"…/{parts[-1]}" if parts else "…"
