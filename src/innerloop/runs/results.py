"""What an evaluation gives: tables of scores with one statistic, the mean and the half-width of its 95 % interval."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

NORMAL_QUANTILE = 1.96
"""A normal variable lies within this many standard deviations of its mean with probability 0.95."""


class Estimate(NamedTuple):
    """A mean over tasks.

    Attributes:
        mean: the mean.
        ci95_half_width: half the width of its 95 % interval; `nan` where there is one task only.
    """

    mean: float
    ci95_half_width: float


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    r"""The mean of scores of tasks, and half the width of its 95 % interval, $1.96\,s/\sqrt n$.

    Args:
        values: one score for each task, `[tasks]`.

    Returns:
        The estimate; the half-width is `nan` for fewer than two tasks.

    Example:
        >>> mean, half_width = estimate([1.0, 2.0, 3.0])
        >>> round(mean, 2), round(half_width, 2)
        (2.0, 1.13)
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Estimate(float(array.mean()) if len(array) else math.nan, math.nan)
    return Estimate(float(array.mean()), float(NORMAL_QUANTILE * array.std(ddof=1) / math.sqrt(len(array))))


@dataclass(frozen=True)
class Table:
    """A table of a result, told in three ways: as text of 80 columns, as Markdown, as HTML.

    Attributes:
        title: what it is about.
        columns: the heading of each column; the first one names the rows.
        rows: cells as text, a sequence for each row.
        notes: what a reader must know, a sentence each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def as_text(self) -> str:
        """As lines of at most 80 columns, where its cells allow."""
        cells = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        spare = 80 - sum(widths[1:]) - 2 * (len(widths) - 1)
        widths[0] = max(min(widths[0], spare), min(widths[0], 12))

        def line(row: Sequence[str]) -> str:
            first = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 1] + "…"
            rest = "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
            return f"{first:<{widths[0]}}{rest}".rstrip()

        return "\n".join([self.title, *map(line, cells), *(f"note: {note}" for note in self.notes)])

    def as_markdown(self) -> str:
        """As a Markdown table, the title above it."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
        return "\n\n".join([f"**{self.title}**", body, *self.notes])

    def as_html(self) -> str:
        """As a `<table>` element with its caption; every cell is escaped."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.columns)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in self.notes)
        return f"<table><caption>{html.escape(self.title)}</caption><tr>{head}</tr>{body}</table>{notes}"


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        html: its body, which must be safe: text in it is escaped by who made it, figures are SVG of our own.
        caption: a sentence below.
    """

    title: str
    html: str
    caption: str = ""


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        values: everything that tables, report and comparison are made from, as JSON; kept in `evaluation.json`.
        scores: scores of single test tasks by name, arrays `[tasks, ...]`; kept in `scores.safetensors`.
    """

    values: Mapping[str, Any]
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
