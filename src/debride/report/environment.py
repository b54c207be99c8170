"""The templates, and how figures are written in them: as HTML, or as Markdown."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from debride import __version__
from debride.relevance import method_title
from debride.report import findings, heatmaps, words

TEMPLATES = Path(__file__).parent / "templates"


@cache
def html() -> Environment:
    """Give the templates of pages: whatever is filled in is escaped."""
    environment = _environment(autoescape=True)
    script = _text("report.js")
    digest = b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
    environment.globals.update(
        style=Markup(_text("style.css")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        colours={"for": heatmaps.FOR, "against": heatmaps.AGAINST},
    )
    return environment


@cache
def markdown() -> Environment:
    """Give the templates of model cards: what a user named goes through the filter ``md``."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escaped
    return environment


def escaped(text: object) -> str:
    r"""Write a text so that Markdown shows it as it is, within one line and one cell.

    Examples
    --------
    >>> print(escaped("a|b_c <b>"))
    a\|b\_c &lt;b&gt;
    """
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", line)


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["titled"] = method_title
    environment.globals.update(
        percent=words.percent,
        points=words.points,
        number=words.number,
        whole=words.whole,
        ms=words.milliseconds,
        estimate=findings.estimate,
        change=findings.change,
        outcomes=findings.OUTCOMES,
        version=__version__,
    )
    return environment


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")
