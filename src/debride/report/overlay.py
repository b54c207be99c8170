"""One picture for each image: the image, and beside it what each method says of it."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from debride.report.heatmaps import AGAINST, FOR

Floats = npt.NDArray[np.float32]

DPI = 144
SIDE = (2.8, 3.8)
"""Least and greatest longer side of a panel, in inches; between them one pixel is one dot."""
NARROWEST = 2.1
"""Least room for a panel's title and colour bar, in inches."""
IN_A_ROW = 5
GAP, MARGIN = 0.3, 0.2
ABOVE, BELOW = 0.5, 0.62
"""Room for a panel's two lines of title, and for its colour bar with two lines of text."""
LARGE, PLAIN, SMALL = 11.5, 9.5, 8.0
"""Sizes of text, in points."""
WIDTH = 0.56
"""Mean width of a letter, in parts of its size."""
GREY = "0.35"


@dataclass(frozen=True)
class Panel:
    """One method's map of one image.

    Attributes
    ----------
    title, details : str
        The method, and in a smaller line its rules and options.
    relevance : ndarray
        (H, W).
    """

    title: str
    details: str
    relevance: Floats


def figure(
    image: npt.NDArray[np.uint8],
    panels: Sequence[Panel],
    *,
    heading: str,
    lines: Sequence[str] = (),
    caption: str = "what the network sees",
    ends: tuple[str, str] = ("against", "for"),
) -> Figure:
    """Draw an image and beside it each map over it, all of the same size.

    Each map has colours of its own, which end at its 99th percentile of |relevance|, and a bar
    centred at 0: orange speaks for what is explained, blue against it.

    Parameters
    ----------
    image
        (H, W) or (H, W, 3), like the maps.
    panels
        One or more.
    heading
        The large line: what is explained.
    lines
        Smaller ones under it.
    caption
        The small line over the image.
    ends
        What blue and orange speak for, at the ends of the bars.

    Examples
    --------
    >>> flat = np.zeros((8, 8), np.float32)
    >>> drawn = figure(np.zeros((8, 8), np.uint8), [Panel("LRP", "", flat)], heading="nodule")
    >>> len(drawn.axes)  # image, map and its bar
    3
    """
    grid = _Grid.of(image.shape[:2], 1 + len(panels))
    head = _Heading.of(heading, lines, grid.inner)
    width = grid.inner + 2 * MARGIN
    height = grid.height + head.height
    drawn = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    head.write(drawn, width, height)
    top = height - head.height
    grey = (image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])) * 0.8
    for place in range(1 + len(panels)):
        left, bottom = grid.place(place, top)
        box = (left / width, bottom / height, grid.wide / width, grid.high / height)
        axes = drawn.add_axes(box)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color="0.75", linewidth=0.5)
        panel = panels[place - 1] if place else None
        title, details = (panel.title, panel.details) if panel else ("Image", caption)
        _title(drawn, title, details, (left + grid.wide / 2, bottom + grid.high), grid, width)
        if panel is None:
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        else:
            long = 0.7 * grid.column
            middle = left + grid.wide / 2
            bar = ((middle - long / 2) / width, (bottom - 0.17) / height,
                   long / width, 0.09 / height)  # fmt: skip
            axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
            _map(axes, drawn.add_axes(bar), panel.relevance, [
                _short(end, SMALL, 0.45 * grid.column) for end in ends
            ])  # fmt: skip
    return drawn


def as_png(drawn: Figure) -> bytes:
    """Give a figure as a PNG file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    # no software name or date: the same heatmap is the same file
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _map(axes: Axes, bar: Axes, relevance: Floats, ends: Sequence[str]) -> None:
    """Lay a map over the grey image, with its colour bar."""
    finite = np.nan_to_num(relevance)
    end = float(np.quantile(np.abs(finite), 0.99)) or float(np.abs(finite).max())
    blank, end = end == 0, end or 1.0
    against, towards = (tuple(value / 255 for value in colour) for colour in (AGAINST, FOR))
    colours = LinearSegmentedColormap.from_list(
        "relevance", [(*against, 1.0), (1.0, 1.0, 1.0, 0.0), (*towards, 1.0)]
    )
    shown = axes.imshow(finite, cmap=colours, norm=Normalize(-end, end))
    bar.set_facecolor("0.25")
    drawn = axes.figure.colorbar(shown, cax=bar, orientation="horizontal")
    drawn.outline.set_linewidth(0.4)
    ticks = [f"−{end:.2g}\n{ends[0]}", "0", f"{end:.2g}\n{ends[1]}"]
    if blank:
        ticks = [f"\n{ends[0]}", "0 everywhere", f"\n{ends[1]}"]
    drawn.set_ticks([-end, 0, end], labels=ticks)
    bar.tick_params(labelsize=SMALL, length=2, width=0.4, pad=1.5, labelcolor=GREY)


def _title(
    drawn: Figure, title: str, details: str, place: tuple[float, float], grid: _Grid, width: float
) -> None:
    height = drawn.get_figheight()
    x, y = place[0] / width, place[1]
    room: dict[str, Any] = {"ha": "center", "va": "baseline"}
    drawn.text(x, (y + 0.27) / height, _short(title, PLAIN, grid.column), size=PLAIN, **room)
    if details:
        line = _short(details, SMALL, grid.column)
        drawn.text(x, (y + 0.09) / height, line, size=SMALL, color=GREY, **room)


def _letters(size: float, inches: float) -> int:
    return max(8, int(inches * 72 / (size * WIDTH)))


def _short(text: str, size: float, inches: float) -> str:
    """Cut a line that would reach into its neighbour."""
    most = _letters(size, inches)
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class _Grid:
    """Where the panels stand, in inches: `wide` × `high` each, in columns of width `column`."""

    wide: float
    high: float
    column: float
    columns: int
    count: int

    @classmethod
    def of(cls, size: tuple[int, ...], count: int) -> _Grid:
        height, width = size
        longest = min(max(max(size) / DPI, SIDE[0]), SIDE[1])
        wide, high = (longest * side / max(size) for side in (width, height))
        # no thinner than a line
        wide, high = max(wide, 0.2), max(high, 0.2)
        columns = count if count <= IN_A_ROW else math.ceil(count / math.ceil(count / 4))
        return cls(wide, high, max(wide, NARROWEST), columns, count)

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    @property
    def inner(self) -> float:
        return self.columns * self.column + (self.columns - 1) * GAP

    @property
    def height(self) -> float:
        return self.rows * (ABOVE + self.high + BELOW)

    def place(self, index: int, top: float) -> tuple[float, float]:
        """Give the left and lower edge of a panel."""
        row, column = divmod(index, self.columns)
        left = MARGIN + column * (self.column + GAP) + (self.column - self.wide) / 2
        return left, top - (row + 1) * (ABOVE + self.high) - row * BELOW


@dataclass(frozen=True)
class _Heading:
    """The lines over the panels, wrapped to the picture's width."""

    large: tuple[str, ...]
    small: tuple[str, ...]

    @classmethod
    def of(cls, heading: str, lines: Sequence[str], inches: float) -> _Heading:
        return cls(
            tuple(textwrap.wrap(heading, _letters(LARGE, inches)) or [""]),
            tuple(part for line in lines for part in textwrap.wrap(line, _letters(PLAIN, inches))),
        )

    @property
    def height(self) -> float:
        return MARGIN + sum(self._steps())

    def _steps(self) -> list[float]:
        sizes = [LARGE] * len(self.large) + [PLAIN] * len(self.small)
        return [1.45 * size / 72 for size in sizes]

    def write(self, drawn: Figure, width: float, height: float) -> None:
        y = height - MARGIN
        for number, (text, step) in enumerate(
            zip((*self.large, *self.small), self._steps(), strict=True)
        ):
            y -= step
            size, colour = (LARGE, "black") if number < len(self.large) else (PLAIN, GREY)
            drawn.text(MARGIN / width, (y + 0.05) / height, text, size=size, color=colour)
