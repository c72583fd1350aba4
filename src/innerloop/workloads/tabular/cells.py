"""What the cells of a column hold, and how that is found out from a text file."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from innerloop.extras import require
from innerloop.tabular.columns import is_date
from innerloop.tabular.features import LARGEST_CATEGORIES
from innerloop.workloads.tabular.dialects import GAPS, NOTATIONS, Notation, value_in

Arrow: TypeAlias = Any
"""What pyarrow gives; it is an optional library, imported on demand."""

MOSTLY = 0.5
"""A column of a CSV file with a larger share of numbers is one of numbers, and a text in it a mistake, or a level."""


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: of the column.
        kind: numbers, fixed-size lists of numbers, texts, dates, truth values, or what cannot be read.
        width: entries of a value.
        small: whether lists hold unsigned bytes, which are read as counts.
        distinct: different texts seen, counted up to one more than a category may have.
        problem: why it cannot be read, or which cell of a column of numbers holds a text.
        notation: how a text file writes its numbers.
    """

    name: str
    kind: Literal["number", "list", "text", "date", "truth", "other"]
    width: int = 1
    small: bool = False
    distinct: int = 0
    problem: str = ""
    notation: Notation = "plain"


FEW_LEVELS, LEAST_OF_LEVEL = 12, 5
"""Different values, at most, of a column in which numbers and texts are levels; rows of each such text, at least."""


class Scan:
    """What a column of a text file turns out to hold."""

    def __init__(self, delimiter: str, counting: bool) -> None:
        self.delimiter, self.counting = delimiter, counting
        self.total = 0
        self.numbers: dict[Notation, int] = dict.fromkeys(NOTATIONS, 0)
        self.first: dict[Notation, tuple[int, str]] = {}
        self.seen: Counter[str] = Counter()
        self.gaps: set[str] = set()
        self.lengths: set[int] = set()
        self.lists = self.dates = True

    def see(self, values: Arrow, before: int) -> None:
        if self._see_numbers(values):
            return
        given = [(i, text) for i, text in enumerate(values.to_pylist(), before) if text is not None]
        self.counting &= len(given) == len(values) and all(text in (str(i), str(i + 1)) for i, text in given)
        self.gaps.update(text for _, text in given if text.strip() in GAPS)
        given = [(i, text) for i, text in given if text.strip() not in GAPS]
        self.total += len(given)
        if len(self.seen) <= LARGEST_CATEGORIES:
            self.seen.update(text for _, text in given)
        self.dates = self.dates and all(is_date(text.strip()) for _, text in given)
        self.lists &= all(text.lstrip().startswith("[") for _, text in given)
        if self.lists:
            self.lengths |= {len(listed(text) or ()) for _, text in given}
        for notation in NOTATIONS:
            misread = [(i, text) for i, text in given if value_in(text, notation) is None]
            self.numbers[notation] += len(given) - len(misread)
            if misread:
                self.first.setdefault(notation, (misread[0][0] + 1, misread[0][1]))

    def _see_numbers(self, values: Arrow) -> bool:
        """Whether all are numbers as a program writes them: then they are counted together, in much less time."""
        compute = require("pyarrow.compute", "tabular", "Reading tables")
        try:
            values.cast("float64")
        except ValueError:
            return False
        known = len(values) - values.null_count
        if not known or self.counting:
            return False
        points = compute.sum(compute.match_substring(values, ".")).as_py() or 0
        self.numbers = {
            "plain": self.numbers["plain"] + known,
            "comma": self.numbers["comma"] + known - points,
            "grouped": self.numbers["grouped"] + known,
        }
        self.total += known
        self.lists = self.dates = False
        if len(self.seen) <= LARGEST_CATEGORIES:
            counts = zip(*compute.value_counts(values).flatten(), strict=True)
            self.seen.update({value.as_py(): count.as_py() for value, count in counts if value.is_valid})
        return True

    def column(self, name: str) -> Column:
        if self.counting and self.total:
            return Column(name, "other", problem="it numbers the rows")
        if self.lists and self.lengths and len(self.lengths) == 1 and 0 not in self.lengths:
            return Column(name, "list", self.lengths.pop())
        if not self.total:
            return Column(name, "other", problem="it is empty in every row")
        if {text.strip().lower() for text in self.seen} <= {"true", "false"}:
            return Column(name, "truth")
        if self.dates:
            return Column(name, "date")
        # 1,234 alone is 1.234 where commas cannot divide columns, and 1234 where they do
        preferred = ("plain", "grouped", "comma") if self.delimiter == "," else ("plain", "comma", "grouped")
        notation = max(preferred, key=lambda notation: self.numbers[notation])
        if self.numbers[notation] == self.total:
            return Column(name, "number", notation=notation)
        if self.numbers[notation] > MOSTLY * self.total and not self._levels(notation):
            row, text = self.first[notation]
            problem = f"row {row} holds the text {text!r} where the others are numbers"
            return Column(name, "number", problem=problem, notation=notation)
        return Column(name, "text", distinct=min(len(self.seen), LARGEST_CATEGORIES + 1))

    def _levels(self, notation: Notation) -> bool:
        """Whether what is no number is one of a few levels that recur, such as 0, 1, 2, 3+, and no slip of the pen."""
        others = [count for text, count in self.seen.items() if value_in(text, notation) is None]
        return len(self.seen) <= FEW_LEVELS and min(others) >= max(self.total // 100, LEAST_OF_LEVEL)


def listed(text: str) -> list[float] | None:
    """A list of numbers in a cell, such as `[0, 1.5, 2]`."""
    try:
        values = json.loads(text)
        return [float(value) for value in values]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
