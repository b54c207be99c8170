"""The report: evidence as one self-contained HTML page, and as a model card in Markdown."""

from debride.report.card import CARD, REPORT, card, pages
from debride.report.comparison import Run, compare_runs
from debride.report.render import render

__all__ = ["CARD", "REPORT", "Run", "card", "compare_runs", "pages", "render"]
