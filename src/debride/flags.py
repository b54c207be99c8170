"""Command-line flags made from settings, so that a setting is described once."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from debride.config import Settings, flag_of

PANELS = (
    "Network",
    "Images",
    "Preparing images",
    "Training",
    "Relevance",
    "Budget (one of these)",
    "Search, instead of a budget",
    "Cutting",
    "Fine-tuning",
    "Evidence",
    "Export",
    "Comparison",
    "Run",
)


def signature(settings: type[Settings]) -> inspect.Signature:
    """Give the signature of a Typer command with a flag per setting, ``--config`` and ``--debug``.

    A setting without a panel is no flag. A flag that is not given is None, so that the file of
    ``--config`` can fill it.
    """
    shown = [item for item in settings.model_fields.items() if _extra(item[1])["panel"]]
    fields = sorted(shown, key=lambda item: PANELS.index(_extra(item[1])["panel"]))
    return inspect.Signature(
        [*(_parameter(name, field) for name, field in fields), _CONFIG, _DEBUG]
    )


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = _extra(field)
    flag = flag_of(name)
    text = escape(field.description or "")
    if field.is_required():
        text += " [red]\\[required][/red]"
    elif (shown := extra["shown"] or _shown(field.default)) is not None:
        text += f" [dim]\\[default: {escape(shown)}][/dim]"
    kind: Any = str
    declaration = flag
    if field.annotation is bool:
        kind = bool
        declaration = f"{flag}/--no-{flag[2:]}" if field.default else flag
    elif extra["many"]:
        kind = list[str]
    if extra["positional"]:
        argument = typer.Argument(
            help=text, metavar=extra["metavar"], show_default=False, rich_help_panel=extra["panel"]
        )
        return _keyword(name, kind, argument)
    given = typer.Option(
        declaration,
        help=text,
        metavar=extra["metavar"] or " ",
        show_default=False,
        rich_help_panel=extra["panel"],
    )
    return _keyword(name, kind, given)


def _keyword(name: str, kind: Any, given: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, given],
    )


def _shown(default: Any) -> str | None:
    if default is None or default is False or default == ():
        return None
    return "yes" if default is True else str(default)


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="YAML file of settings, one 'name: value' a line; flags override it.",
            metavar="FILE",
            show_default=False,
            rich_help_panel="Run",
        ),
    ],
)
_DEBUG = inspect.Parameter(
    "debug",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error.", metavar=" ", rich_help_panel="Run"
        ),
    ],
)
