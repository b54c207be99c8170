"""The report: evidence as one self-contained HTML file that a person reads top to bottom."""

from debride.report.render import render

__all__ = ["render"]
