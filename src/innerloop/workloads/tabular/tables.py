"""Tables on disk, Parquet or CSV, read a piece at a time: what their columns are, and the rows that are asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.tabular.columns import as_column, is_date
from innerloop.tabular.features import LARGEST_CATEGORIES
from innerloop.tabular.identity import identities
from innerloop.text import nearest
from innerloop.workloads.tabular.cells import Arrow, Column, Scan, listed
from innerloop.workloads.tabular.dialects import GAPS, UNNAMED, Dialect, dialect_of, value_in, without_comments

BLOCK = 2**16
"""Rows that are read at a time."""
SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}


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
        self.gaps: frozenset[str] = frozenset()
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
        """The columns with the number of different texts in those of text; texts that are all dates are dates."""
        texts = [name for name in names if self.columns[name].kind == "text" and not self.columns[name].distinct]
        seen: dict[str, set[Any]] = {name: set() for name in texts}
        dates = set(texts)
        for batch in self.batches(texts) if texts else ():
            for name in (name for name in texts if len(seen[name]) <= LARGEST_CATEGORIES or name in dates):
                here = set(batch.column(name).unique().to_pylist()) - {None, *GAPS}
                seen[name].update(here)
                if not all(map(is_date, here)):
                    dates.discard(name)
        for name in texts:
            distinct = min(len(seen[name]), LARGEST_CATEGORIES + 1)
            kind = "date" if distinct and name in dates else "text"
            self.columns[name] = replace(self.columns[name], kind=kind, distinct=distinct)
        return {name: self.columns[name] for name in names}

    def _parquet_columns(self) -> tuple[dict[str, Column], int]:
        parquet = require("pyarrow.parquet", "tabular", "Reading tables")
        with parquet.ParquetFile(self.path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        if len(set(schema.names)) < len(schema.names):
            twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
            raise InnerloopError(f"{self.path} has two columns of the name {twice[0]!r}; rename one.")
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
        if types.is_date(kind) or types.is_timestamp(kind) or types.is_duration(kind):
            return Column(field.name, "date")
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

    def _csv(self, dialect: Dialect | None = None) -> Arrow:
        csv = require("pyarrow.csv", "tabular", "Reading tables")
        known = dialect or dialect_of(self.path)
        names, text = list(known.names), self._arrow.string()
        source, encoding = self.path, known.encoding
        if known.comments:
            source, encoding = self._arrow.BufferReader(without_comments(self.path, known.encoding)), "utf-8"
        read = csv.ReadOptions(block_size=2**24, column_names=names, skip_rows=known.lines, encoding=encoding)
        parse = csv.ParseOptions(delimiter=known.delimiter, newlines_in_values=True)
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(names, text), strings_can_be_null=True, null_values=[""]
        )
        return csv.open_csv(source, read_options=read, parse_options=parse, convert_options=convert)

    def _csv_columns(self) -> tuple[dict[str, Column], int]:
        dialect = dialect_of(self.path)
        scans = {name: Scan(dialect.delimiter, name.startswith(UNNAMED)) for name in dialect.names}
        rows = 0
        with self._csv(dialect) as reader:
            for batch in reader:
                for name, values in zip(batch.schema.names, batch.columns, strict=True):
                    scans[name].see(values, rows)
                rows += batch.num_rows
        columns = {name: scan.column(name) for name, scan in scans.items()}
        numbers = [scans[name] for name, column in columns.items() if column.kind == "number"]
        self.gaps = frozenset().union(*(scan.gaps for scan in numbers))
        return columns, rows

    def _readable(self) -> "_Readable":
        return _Readable(self.path, self.format, self._arrow)


class _Readable:
    """Says in one sentence what pyarrow says of a file that it cannot read."""

    def __init__(self, path: Path, form: str, arrow: Arrow):
        self._path, self._form = path, form
        self._errors = (arrow.lib.ArrowException, OSError, UnicodeError, OverflowError)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, InnerloopError) or not isinstance(error, self._errors):
            return
        said = next(iter(str(error).splitlines()), type(error).__name__)[:200].rstrip(". ")
        raise InnerloopError(f"{self._path} cannot be read as {self._form.upper()}: {said}.") from error


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
    if at != rows:
        raise _fewer(table, at)
    return result


def _fewer(table: Table, rows: int) -> InnerloopError:
    return InnerloopError(
        f"{table.path} says that it has {table.rows:,} rows, and {rows:,} are there; it is damaged: write it again."
    )


def identity_column(table: Table, name: str) -> tuple[np.ndarray, list[str]]:
    """What a column tells apart: the number of each row's text, -1 where it is missing, and the texts.

    A word for missing numbers, such as NA, is a text like any other, unless the table's columns of numbers have it.
    """
    index: dict[object, int] = {}
    parts = []
    for batch in table.batches([name]):
        values = batch.column(name).to_pylist()
        values = [None if value in table.gaps else value for value in values] if table.gaps else values
        try:
            parts.append(np.array([index.setdefault(value, len(index)) for value in values], np.int64))
        except TypeError as error:
            raise InnerloopError(
                f"The column {name!r} of {table.path} holds lists, which name nothing; choose another column."
            ) from error
    if sum(map(len, parts)) != table.rows:
        raise _fewer(table, sum(map(len, parts)))
    names = identities(index, written=table.format == "csv")
    numbers: dict[str, int] = {}
    place = [-1 if text is None else numbers.setdefault(text, len(numbers)) for text in names.tolist()]
    return np.array(place, np.int64)[np.concatenate(parts)], list(numbers)


def label_texts(table: Table, name: str) -> np.ndarray:
    """Class labels or names of tasks as texts, `None` where one is missing, see `innerloop.tabular.identity`."""
    numbers, names = identity_column(table, name)
    return np.array([*names, None], object)[numbers]


def _read_dates(values: Sequence[Any]) -> np.ndarray:
    known = any(value is not None for value in values)
    return as_column(np.array(values, object)) if known else np.full(len(values), np.nan)


def _empty(column: Column, rows: int) -> np.ndarray:
    if column.kind == "text":
        return np.full(rows, None, object)
    shape = (rows, column.width) if column.kind == "list" else (rows,)
    if column.kind == "list":
        return np.zeros(shape, np.uint8 if column.small else np.float32)
    return np.zeros(shape, np.float64)


def _require_size(flat: np.ndarray, column: Column, table: Table) -> None:
    """Refuse numbers in lists that 32 bits do not hold; infinite ones are gaps, as in columns of numbers."""
    if flat.dtype.kind != "f":
        return
    largest = float(np.max(np.abs(flat), where=np.isfinite(flat), initial=0.0))
    if largest > float(np.finfo(np.float32).max):
        raise InnerloopError(
            f"The column {column.name!r} of {table.path} has {largest:g} in its lists; scale them, or leave it out "
            "with --features."
        )


def _values(column: Column, values: Arrow, table: Table) -> np.ndarray:
    if column.kind == "text" and table.format != "csv":
        return np.array([None if value is None else str(value) for value in values.to_pylist()], object)
    if table.format == "csv":
        texts = [None if text is None or text.strip() in GAPS else text for text in values.to_pylist()]
        if column.kind == "text":
            return np.array(texts, object)
        if column.kind == "date":
            return _read_dates([None if text is None else text.strip() for text in texts])
        if column.kind == "list":
            empty = [np.nan] * column.width
            rows = np.array([empty if text is None else listed(text) for text in texts], np.float64)
            _require_size(rows, column, table)
            return rows.astype(np.float32)
        if column.kind == "truth":
            return np.array([np.nan if text is None else float(text.strip().lower() == "true") for text in texts])
        return np.array([np.nan if text is None else value_in(text, column.notation) for text in texts], np.float64)
    if column.kind == "list":
        if values.null_count:
            raise InnerloopError(
                f"The column {column.name!r} of {table.path} has {values.null_count} rows without a list; fill them, "
                "or leave it out with --features."
            )
        entries = values.flatten()
        flat = entries.to_numpy(zero_copy_only=False)
        if entries.null_count:
            raise InnerloopError(
                f"The column {column.name!r} of {table.path} has lists with gaps in them; fill them, or leave it out "
                "with --features."
            )
        _require_size(flat, column, table)
        return flat.reshape(len(values), column.width)
    if column.kind == "date":
        found = values.to_numpy(zero_copy_only=False)
        if found.dtype.kind != "O":
            return as_column(found)
        return _read_dates([None if value in GAPS else value for value in found.tolist()])
    if column.kind == "truth":
        return np.array([np.nan if value is None else float(value) for value in values.to_pylist()])
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
