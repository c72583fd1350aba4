"""What an evaluation gives: tables of scores with one statistic, the mean and the half-width of its 95 % interval."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np

from innerloop.runs.recipe import Published

NORMAL_QUANTILE = 1.96
"""A normal variable lies within this many standard deviations of its mean with probability 0.95."""
WIDTH = 80
"""Columns of a terminal."""
NARROW = 16
"""The first column of a table is not made narrower than this, nor so narrow that its names look the same, as text."""
LARGE = 1e5
"""From here on a number is shown with two digits and its power of ten."""


class Estimate(NamedTuple):
    """A mean over tasks.

    Attributes:
        mean: the mean, a number for one score of each task, else `[...]`.
        ci95_half_width: half the width of its 95 % interval, of the same shape; `nan` where there is one task only.
    """

    mean: np.ndarray
    ci95_half_width: np.ndarray


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    r"""The mean of scores of tasks, and half the width of its 95 % interval.

    $\bar x \pm 1.96\,\sigma/\sqrt n$ with the population's $\sigma$, as in the papers of the family, and as
    `innerloop.summarise` has it.

    Args:
        values: one score of each task, `[tasks]`, or several, `[tasks, ...]`.

    Returns:
        The estimate; the half-width is `nan` for fewer than two tasks.

    Example:
        >>> mean, half_width = estimate([1.0, 2.0, 3.0])
        >>> print(mean, half_width.round(3))
        2.0 0.924
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        mean = array.mean(axis=0) if len(array) else np.full(array.shape[1:], np.nan)
        return Estimate(mean, np.full_like(mean, np.nan))
    return Estimate(array.mean(axis=0), NORMAL_QUANTILE * array.std(axis=0) / np.sqrt(len(array)))


def number(value: int | float, digits: int, sign: str = "") -> str:
    """A number with so many digits behind the point; with two and a power of ten if training diverged.

    Args:
        value: the number.
        digits: behind the point.
        sign: `+` to show it of positive numbers too.

    Example:
        >>> number(1.2345, 2), number(1.2345, 1, "+"), number(1.2e22, 2)
        ('1.23', '+1.2', '1.2e+22')
    """
    return f"{value:{sign}.{digits}f}" if abs(value) < LARGE else f"{value:{sign}.2g}"


def measured(mean: int | float, half_width: int | float, digits: int, sign: str = "") -> str:
    """A mean with the half-width of its 95 % interval, which is left out where it is not known.

    Example:
        >>> measured(0.2071, 0.0123, 3), measured(0.2071, math.nan, 3)
        ('0.207 ± 0.012', '0.207')
    """
    text = number(mean, digits, sign)
    known = not math.isnan(half_width) or not math.isfinite(mean)
    return f"{text} ± {number(half_width, digits)}" if known else text


def counted(count: int, noun: str) -> str:
    """A number with its noun in the right form.

    Example:
        >>> counted(1, "shot"), counted(5, "shot")
        ('1 shot', '5 shots')
    """
    return f"{count:,} {noun if count == 1 else f'{noun}s'}"


def shortened(text: str, width: int) -> str:
    """The text cut to a width, with an ellipsis in its middle if it does not fit: names often differ at their end.

    Example:
        >>> shortened("pre-trained on all tasks", 17)
        'pre-trained…tasks'
    """
    if len(text) <= width:
        return text
    end = (width - 1) // 3
    return f"{text[: width - 1 - end].rstrip()}…{text[len(text) - end :].lstrip()}"


@dataclass(frozen=True)
class Table:
    """A table of a result, told in three ways: as text of 80 columns, as Markdown, as HTML.

    Attributes:
        title: what it is about.
        columns: the heading of each column; the first one names the rows.
        rows: cells as text, a sequence for each row.
        notes: what a reader must know, a sentence each.
        own: the rows of what the run is about, which stand out.
        published: the rows that are not ours but cited, which stand back.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    own: frozenset[int] = frozenset()
    published: frozenset[int] = frozenset()

    def as_text(self) -> str:
        """As lines of at most 80 columns; columns that do not fit beside the others stand in a block below them."""
        cells = [tuple(map(_one_line, row)) for row in (self.columns, *self.rows)]
        lines = wrap(_one_line(self.title), WIDTH)
        for columns, name_width in self._blocks(cells):
            for row in cells:
                numbers = "".join(f"  {row[i]:>{width}}" for i, width in columns)
                lines.append(f"{shortened(row[0], name_width):<{name_width}}{numbers}".rstrip())
        notes = [line for note in self.notes for line in wrap(note, WIDTH, subsequent_indent="  ")]
        return "\n".join([*lines, *notes])

    def _blocks(self, cells: Sequence[Sequence[str]]) -> Iterator[tuple[list[tuple[int, int]], int]]:
        """Which columns stand beside each other, each with its width, and the width of the first one."""
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        names = {row[0] for row in cells}
        fitting = (
            width for width in range(NARROW, widths[0]) if len({shortened(n, width) for n in names}) == len(names)
        )
        least = min(widths[0], next(fitting, widths[0]))
        block: list[tuple[int, int]] = []
        room = WIDTH - least
        for i, width in enumerate(widths[1:], 1):
            if block and room < width + 2:
                yield block, min(widths[0], least + room)
                block, room = [], WIDTH - least
            block.append((i, width))
            room -= width + 2
        yield block, min(widths[0], max(least + room, least))

    def as_markdown(self) -> str:
        """As a Markdown table, the title above it, the notes below."""
        lines = [self.columns, ("---", *("---:" for _ in self.columns[1:])), *self.rows]
        shown = [tuple(map(_markdown, row)) for row in lines]
        for i in self.own:
            shown[i + 2] = tuple(f"**{cell}**" if cell else "" for cell in shown[i + 2])
        body = "\n".join("| " + " | ".join(row) + " |" for row in shown)
        return "\n\n".join([f"**{_markdown(self.title)}**", body, *map(_markdown, self.notes)])

    def as_html(self) -> str:
        """As a `<table>` element with its caption; every text is escaped."""
        head = self._html_row("th", self.columns)
        rows = []
        for i, row in enumerate(self.rows):
            kind = "own" if i in self.own else "published" if i in self.published else ""
            rows.append(self._html_row("td", row, f' class="{kind}"' if kind else ""))
        notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in self.notes)
        return (
            f'<div class="table"><table><caption>{html.escape(self.title)}</caption><thead>{head}</thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>{notes}"
        )

    def _html_row(self, tag: str, row: Sequence[str], attributes: str = "") -> str:
        first, *rest = (html.escape(cell) for cell in row)
        numbers = "".join(f'<{tag} class="number">{cell}</{tag}>' for cell in rest)
        return f"<tr{attributes}><{tag}>{first}</{tag}>{numbers}</tr>"


def _one_line(text: str) -> str:
    """Without characters that would move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def _markdown(text: str) -> str:
    return _one_line(text).replace("|", "\\|").replace("<", "&lt;")


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


def row_name(row: Mapping[str, Any]) -> str:
    """What a row of an evaluation is called: its method and, where there are two, whose statistics normalise."""
    return row["method"] if row["judge"] == "query" else f"{row['method']}, {row['judge']}"


def score_text(result: Mapping[str, Any], row: Mapping[str, Any], step: int) -> str:
    """A score after a number of inner steps, in the unit of the result; nothing beyond the last."""
    values, factor = row["metrics"][result["metric"]], result["factor"]
    if step >= len(values["mean"]):
        return ""
    return measured(values["mean"][step] * factor, values["interval"][step] * factor, digits_of(result))


def digits_of(result: Mapping[str, Any]) -> int:
    """Digits behind the point of its scores: one for percent, two for the others, unless it says so itself."""
    return result.get("digits", 2 if result["factor"] == 1 else 1)


def adaptation_table(
    title: str,
    result: Mapping[str, Any],
    table: Mapping[str, Any],
    *,
    published: Sequence[Published] = (),
    notes: Sequence[str] = (),
) -> Table:
    """Scores of methods after 0, 1, ... inner steps: the ends, one, five, and the steps of the published figures.

    Args:
        title: what the scores are.
        result: the evaluation, with its `metric`, `factor`, and perhaps `algorithm`.
        table: one of its tables, with `shots` and `rows`.
        published: figures to show beside them; those of another number of shots are left out.
        notes: what a reader must know.
    """
    here = [figure for figure in published if figure.shots == table["shots"]]
    last = len(table["rows"][0]["metrics"][result["metric"]]["mean"]) - 1
    steps = sorted(step for step in {0, 1, 5, last, *(figure.steps for figure in here)} if step <= last)
    rows = [(row_name(row), *(score_text(result, row, step) for step in steps)) for row in table["rows"]]
    own = frozenset(i for i, row in enumerate(table["rows"]) if row["method"] == result.get("algorithm"))
    sources = list(dict.fromkeys(figure.source for figure in here))
    for method in dict.fromkeys(figure.method for figure in here):
        figure_at = {figure.steps: figure for figure in here if figure.method == method}
        source = sources.index(next(iter(figure_at.values())).source) + 1
        figures = (figure_at[step].text if step in figure_at else "" for step in steps)
        rows.append((f"published: {method} [{source}]", *figures))
    return Table(
        title,
        ("method", *(f"after {step}" for step in steps)),
        tuple(rows),
        (*notes, *(f"[{i}] {source}" for i, source in enumerate(sources, 1))),
        own,
        frozenset(range(len(table["rows"]), len(rows))),
    )
