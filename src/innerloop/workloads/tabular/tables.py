"""Tables on disk, Parquet or CSV, read a piece at a time: what their columns are, and the rows that are asked for."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.tabular.columns import label_text, number_in
from innerloop.tabular.features import LARGEST_CATEGORIES
from innerloop.text import nearest

Arrow: TypeAlias = Any
"""What pyarrow gives; it is an optional library, imported on demand."""

BLOCK = 2**16
"""Rows that are read at a time."""
MOST_COLUMNS = 20_000
MOSTLY = 0.5
"""A column of a CSV file with a larger share of numbers is one of numbers, and a text in it a mistake."""
SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: of the column.
        kind: numbers, fixed-size lists of numbers, texts, truth values, or what cannot be read.
        width: entries of a value.
        small: whether lists hold unsigned bytes, which are read as counts.
        distinct: different texts seen, counted up to one more than a category may have.
        problem: why it cannot be read, or which cell of a column of numbers holds a text.
    """

    name: str
    kind: Literal["number", "list", "text", "truth", "other"]
    width: int = 1
    small: bool = False
    distinct: int = 0
    problem: str = ""


class Table:
    """A Parquet or CSV file. Nothing but its description stays in memory.

    Args:
        path: the file.

    Raises:
        InnerloopError: if it is not there, empty, or not what its name says.
    """

    def __init__(self, path: Path):
        self.path = path
        self._arrow = require("pyarrow", "tabular", "Reading tables")
        if not path.exists():
            near = nearest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else ""
            raise InnerloopError(f"There is no file {path}{'; ' + near if near.startswith('did') else '.'}")
        if path.suffix.lower() not in SUFFIXES:
            raise InnerloopError(f"{path} is neither .parquet nor .csv; convert it to one of them.")
        if path.stat().st_size == 0:
            raise InnerloopError(f"{path} is empty; give a table with a row for each example.")
        self.format = SUFFIXES[path.suffix.lower()]
        with self._readable():
            self.columns, self.rows = self._parquet_columns() if self.format == "parquet" else self._csv_columns()
        if not self.rows:
            raise InnerloopError(f"{path} holds no rows; give a table with a row for each example.")

    def require(self, names: Iterable[str], what: str) -> None:
        """Refuse columns that are not there.

        Raises:
            InnerloopError: naming the column and the nearest ones.
        """
        for name in names:
            if name not in self.columns:
                raise InnerloopError(f"{what} is {name!r}, but {self.path} has no such column; {self.nearest(name)}")

    def nearest(self, name: str) -> str:
        """What to say of a column that is not there."""
        return nearest(name, self.columns)

    def batches(self, names: Sequence[str]) -> Iterator[Arrow]:
        """The columns, some rows at a time, in the order of the file."""
        names = list(dict.fromkeys(names))
        with self._readable():
            if self.format == "parquet":
                parquet = require("pyarrow.parquet", "tabular", "Reading tables")
                with parquet.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(batch_size=BLOCK, columns=names):
                        batch.validate(full=True)  # texts that are no UTF-8 fail here, not where they are read
                        yield batch
            else:
                with self._csv() as reader:
                    for batch in reader:
                        yield batch.select(names)

    def described(self, names: Sequence[str]) -> dict[str, Column]:
        """The columns with the number of different texts in those of text."""
        texts = [name for name in names if self.columns[name].kind == "text" and not self.columns[name].distinct]
        seen: dict[str, set[Any]] = {name: set() for name in texts}
        for batch in self.batches(texts) if texts else ():
            open_ones = [name for name in texts if len(seen[name]) <= LARGEST_CATEGORIES]
            for name in open_ones:
                seen[name].update(batch.column(name).unique().to_pylist())
        for name in texts:
            distinct = min(len(seen[name] - {None}), LARGEST_CATEGORIES + 1)
            self.columns[name] = replace(self.columns[name], distinct=distinct)
        return {name: self.columns[name] for name in names}

    def _parquet_columns(self) -> tuple[dict[str, Column], int]:
        parquet = require("pyarrow.parquet", "tabular", "Reading tables")
        with parquet.ParquetFile(self.path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name in schema.names if schema.names.count(name) > 1)
            raise InnerloopError(f"{self.path} has two columns of the name {twice!r}; rename one.")
        columns = {field.name: self._column_of(field) for field in schema}
        for name, column in columns.items():
            if column.kind == "list" and not column.width:
                columns[name] = self._list_of_same_length(column)
        return columns, rows

    def _column_of(self, field: Arrow) -> Column:
        types, kind = self._arrow.types, field.type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_boolean(kind):
            return Column(field.name, "truth")
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            return Column(field.name, "number")
        if types.is_string(kind) or types.is_large_string(kind):
            return Column(field.name, "text")
        if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
            of = kind.value_type
            if types.is_integer(of) or types.is_floating(of) or types.is_boolean(of):
                width = kind.list_size if types.is_fixed_size_list(kind) else 0
                return Column(field.name, "list", width, small=types.is_uint8(of))
        return Column(field.name, "other", problem=f"it is of the type {kind}, which cannot be read")

    def _list_of_same_length(self, column: Column) -> Column:
        compute = require("pyarrow.compute", "tabular", "Reading tables")
        parquet = require("pyarrow.parquet", "tabular", "Reading tables")
        lengths: set[int] = set()
        with parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=BLOCK, columns=[column.name]):
                lengths |= set(compute.list_value_length(batch.column(0)).unique().to_pylist())
        lengths.discard(None)  # pyright: ignore[reportArgumentType]
        if len(lengths) != 1:
            return Column(column.name, "other", problem=f"its lists have {len(lengths)} different lengths")
        return replace(column, width=lengths.pop())

    def _csv(self) -> Arrow:
        csv = require("pyarrow.csv", "tabular", "Reading tables")
        with self.path.open("rb") as file:
            head = file.readline()
        delimiter = max(b",;\t", key=lambda byte: head.count(bytes([byte])))
        if head.count(bytes([delimiter])) >= MOST_COLUMNS:
            raise InnerloopError(
                f"{self.path} has more than {MOST_COLUMNS:,} columns; put numbers that belong together into one, as "
                "lists: [0.5, 1, 2]."
            )
        read = csv.ReadOptions(block_size=2**24)
        parse = csv.ParseOptions(delimiter=chr(delimiter), newlines_in_values=True)
        with csv.open_csv(self.path, read_options=read, parse_options=parse) as reader:
            names = reader.schema.names
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InnerloopError(f"{self.path} has two columns of the name {twice[0]!r}; rename one.")
        convert = csv.ConvertOptions(column_types=dict.fromkeys(names, self._arrow.string()), strings_can_be_null=True)
        return csv.open_csv(self.path, read_options=read, parse_options=parse, convert_options=convert)

    def _csv_columns(self) -> tuple[dict[str, Column], int]:
        scans: dict[str, _Scan] = {}
        rows = 0
        with self._csv() as reader:
            for batch in reader:
                for name, values in zip(batch.schema.names, batch.columns, strict=True):
                    scans.setdefault(name, _Scan()).see(values, rows)
                rows += batch.num_rows
        return {name: scan.column(name) for name, scan in scans.items()}, rows

    def _readable(self) -> "_Readable":
        return _Readable(self.path, self.format, self._arrow)


class _Readable:
    """Says in one sentence what pyarrow says of a file that it cannot read."""

    def __init__(self, path: Path, form: str, arrow: Arrow):
        self._path, self._form = path, form
        self._errors = (arrow.ArrowException, OSError, UnicodeError, OverflowError)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InnerloopError) or not isinstance(error, self._errors):
            return
        said = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise InnerloopError(f"{self._path} cannot be read as {self._form.upper()}: {said}.") from error


class _Scan:
    """What a column of a CSV file turns out to hold."""

    def __init__(self) -> None:
        self.numbers = self.texts = 0
        self.first: tuple[int, str] | None = None
        self.seen: set[str] = set()
        self.lengths: set[int] = set()
        self.lists = True

    def see(self, values: Arrow, before: int) -> None:
        try:
            values.cast("float64")
        except ValueError:
            self._see_each(values, before)
            return
        count = len(values) - values.null_count
        self.numbers += count
        self.lists &= not count
        if len(self.seen) <= LARGEST_CATEGORIES:
            self.seen.update(value for value in values.unique().to_pylist() if value is not None)

    def _see_each(self, values: Arrow, before: int) -> None:
        given = [(i, value) for i, value in enumerate(values.to_pylist()) if value is not None]
        if len(self.seen) <= LARGEST_CATEGORIES:
            self.seen.update(text for _, text in given)
        self.lists &= all(text.lstrip().startswith("[") for _, text in given)
        if self.lists:
            self.lengths |= {len(_listed(text) or ()) for _, text in given}
        for i, text in given:
            if number_in(text) is None:
                self.first = self.first or (before + i + 1, text)
                self.texts += 1
            else:
                self.numbers += 1

    def column(self, name: str) -> Column:
        if self.lists and self.lengths and len(self.lengths) == 1 and 0 not in self.lengths:
            return Column(name, "list", self.lengths.pop())
        total = self.numbers + self.texts
        if not self.first:
            problem = "" if total else "it is empty in every row"
            return Column(name, "number" if total else "other", problem=problem)
        if {text.strip().lower() for text in self.seen} <= {"true", "false"}:
            return Column(name, "truth")
        if self.numbers > MOSTLY * total:
            row, text = self.first
            return Column(name, "number", problem=f"row {row} holds the text {text!r} where the others are numbers")
        return Column(name, "text", distinct=min(len(self.seen), LARGEST_CATEGORIES + 1))


def read(table: Table, columns: Sequence[Column], kept: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Some rows of some columns.

    Args:
        table: the file.
        columns: as `Table.columns` describes them.
        kept: which rows, truth values `[rows]`; `None` for all.

    Returns:
        Numbers `[rows]` or `[rows, width]`, or texts `[rows]` with `None` where one is missing.

    Raises:
        InnerloopError: if a column cannot be read as what it should hold.
    """
    for column in columns:
        if column.problem:
            raise InnerloopError(
                f"The column {column.name!r} of {table.path} cannot be used: {column.problem}; mend it, or leave it "
                "out with --features."
            )
    rows = table.rows if kept is None else int(np.count_nonzero(kept))
    result = {column.name: _empty(column, rows) for column in columns}
    start = at = 0
    for batch in table.batches([column.name for column in columns]):
        chosen = slice(None) if kept is None else np.flatnonzero(kept[start : start + batch.num_rows])
        number = batch.num_rows if kept is None else len(chosen)  # pyright: ignore[reportArgumentType]
        for column in columns:
            if number:
                result[column.name][at : at + number] = _values(column, batch.column(column.name), table)[chosen]
        start, at = start + batch.num_rows, at + number
    return result


def label_texts(table: Table, name: str) -> np.ndarray:
    """Class labels as texts, `None` where one is missing: 1 and 1.0 are `1`, True and TRUE are `true`."""
    return np.concatenate(
        [
            np.array([label_text(value) for value in batch.column(name).to_pylist()], object)
            for batch in table.batches([name])
        ]
    )


def _empty(column: Column, rows: int) -> np.ndarray:
    if column.kind == "text":
        return np.full(rows, None, object)
    shape = (rows, column.width) if column.kind == "list" else (rows,)
    if column.kind == "list":
        return np.zeros(shape, np.uint8 if column.small else np.float32)
    return np.zeros(shape, np.float64)


def _values(column: Column, values: Arrow, table: Table) -> np.ndarray:
    if column.kind == "text":
        return np.array(values.to_pylist(), object)
    if table.format == "csv":
        texts = values.to_pylist()
        if column.kind == "list":
            empty = [np.nan] * column.width
            return np.array([empty if text is None else _listed(text) for text in texts], np.float32)
        if column.kind == "truth":
            return np.array([np.nan if text is None else float(text.strip().lower() == "true") for text in texts])
        return np.array([np.nan if text is None else number_in(text) for text in texts], np.float64)
    if column.kind == "list":
        if values.null_count:
            raise InnerloopError(
                f"The column {column.name!r} of {table.path} has {values.null_count} rows without a list; fill them, "
                "or leave it out with --features."
            )
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(values), column.width)
    if column.kind == "truth":
        return np.array([np.nan if value is None else float(value) for value in values.to_pylist()])
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _listed(text: str) -> list[float] | None:
    """A list of numbers in a cell, such as `[0, 1.5, 2]`."""
    try:
        values = json.loads(text)
        return [float(value) for value in values]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
