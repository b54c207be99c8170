"""``debride explain``: heatmaps of one or several methods, their raw values, their account."""

from debride.explaining.work import explain

__all__ = ["explain"]
