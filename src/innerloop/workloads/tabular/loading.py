"""From a file of the user's to rows of tasks: which columns are read, what is predicted, what fits into memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import machine
from innerloop.tabular.columns import Kind, infer_kind
from innerloop.tabular.features import LARGEST_CATEGORIES
from innerloop.tabular.rows import Rows, part_named
from innerloop.tabular.texts import LOOKED_AT, names_rows
from innerloop.text import listed
from innerloop.workloads.tabular import pictures
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.tables import Column, Table, identity_column, label_texts, read

MEMORY_SHARE = 0.4
"""Of the free memory, what data may take."""


class Loaded(NamedTuple):
    """Rows, and what was decided on the way: the choice and its reason, a line each."""

    rows: Rows
    reasons: tuple[str, ...]


def load(config: Config) -> Loaded:
    """Read the data of a configuration.

    Raises:
        InnerloopError: for whatever does not fit, naming the column, the row or the file.
    """
    path = Path(config.data)
    if path.is_dir() and any(path.glob("**/*.parquet")):
        raise InnerloopError(
            f'{path} is a folder of Parquet files; join them into one file, for example with: python -c "import '
            f"pyarrow.dataset as d, pyarrow.parquet as p; p.write_table(d.dataset('{path}', partitioning='hive')"
            ".to_table(), 'joined.parquet')\""
        )
    if path.is_dir():
        return Loaded(*pictures.load(path, config))
    table = Table(path)
    for value, name in ((config.task_column, "--task-column"), (config.target, "--target")):
        if not value:
            raise InnerloopError(f"{name} is needed; the columns of {path} are: {listed([*table.columns], 12)}.")
        table.require([value], name)
    if config.split_column:
        table.require([config.split_column], "--split-column")
    special = [config.task_column, config.target, *([config.split_column] if config.split_column else [])]
    features, reasons = chosen_features(table, config.feature_names, special)
    target, numeric = _target(table, config)
    kind, reason = _kind(config, target)
    reasons = [reason, *reasons]
    if kind == "classification":
        target, numeric = label_texts(table, config.target), False
    tasks, names = identity_column(table, config.task_column)
    notes = []
    known = (tasks >= 0) & (np.isfinite(target) if numeric else np.array([label is not None for label in target]))
    if (tasks < 0).any():
        notes.append(f"{(tasks < 0).sum():,} rows without a task are left out")
    if (~known & (tasks >= 0)).any():
        notes.append(f"{(~known & (tasks >= 0)).sum():,} rows without a target are left out")
    if not known.any():
        raise InnerloopError(f"No row of {path} has both a task and a target; look at {config.target!r}.")
    parts = _parts(table, config, tasks, names, known)
    known, note = _within_memory(known, tasks, features, config.seed)
    notes += note
    columns = read(table, features, known)
    tasks, target = tasks[known], target[known]
    kept = np.unique(tasks)
    rows = Rows(
        columns,
        target,
        np.searchsorted(kept, tasks).astype(np.int32),
        tuple(names[task] for task in kept),
        tuple(parts[task] for task in kept) if parts else None,
        tuple(notes),
    )
    return Loaded(rows, tuple(reasons))


def chosen_features(table: Table, asked: Sequence[str], special: Sequence[str]) -> tuple[list[Column], list[str]]:
    """The columns to predict from: those asked for, or all that can be read, and what is left out and why."""
    table.require(asked, "--features")
    for name in asked:
        if name in special:
            raise InnerloopError(f"--features names {name!r}, which is the task, target or split; leave it out.")
    names = list(asked) or [name for name in table.columns if name not in special]
    described = table.described(names)
    if asked:
        return [described[name] for name in names], []
    kept, left_out = [], []
    for name, column in described.items():
        if column.kind == "other":
            left_out.append(f"{name} ({column.problem})")
        elif column.kind == "text" and column.distinct > LARGEST_CATEGORIES and names_rows(first_of(table, column)):
            left_out.append(f"{name} (more than {LARGEST_CATEGORIES} different texts, which name single rows)")
        else:
            kept.append(column)
    if not kept:
        why = f": {listed(left_out)}" if left_out else ""
        raise InnerloopError(f"{table.path} has no column to predict from{why}.")
    reasons = [f"features: {listed([column.name for column in kept], 8)}, all columns that can be read; see --features"]
    return kept, reasons + ([f"left out: {listed(left_out, 8)}"] if left_out else [])


def first_of(table: Table, column: Column) -> np.ndarray:
    """The first cells of a column of texts."""
    return read(table, [column], np.arange(table.rows) < LOOKED_AT)[column.name]


def _target(table: Table, config: Config) -> tuple[np.ndarray, bool]:
    """The target of each row: numbers, or texts with `None` where one is missing."""
    column = table.columns[config.target]
    if column.kind in ("list", "other") or (column.kind == "date" and table.format != "csv"):
        why = column.problem or ("it holds dates" if column.kind == "date" else "it holds lists")
        raise InnerloopError(f"--target is {column.name!r}, but {why}; choose another.")
    if column.kind == "number" and column.problem and config.kind == "auto":
        raise InnerloopError(
            f"The target {column.name!r} of {table.path} is neither: {column.problem}; mend it, or give --kind "
            "classification if all of them are classes."
        )
    if column.kind == "number" and config.kind != "classification":
        return read(table, [column])[column.name], True
    values = [value for batch in table.batches([column.name]) for value in batch.column(0).to_pylist()]
    if config.kind == "regression":
        row, text = next((i, value) for i, value in enumerate(values, 1) if value is not None)
        raise InnerloopError(
            f"--kind is regression, but the target {column.name!r} holds {text!r} in row {row}; give numbers, or "
            "--kind classification."
        )
    return label_texts(table, column.name), False


def _kind(config: Config, target: np.ndarray) -> tuple[Kind, str]:
    if config.kind != "auto":
        return config.kind, f"{config.kind}: as --kind says"
    kind, reason = infer_kind(target, config.target)
    if kind == "classification" and target.dtype.kind == "f" and len(np.unique(target[np.isfinite(target)])) > 2:
        reason += "; if they are amounts, give --kind regression"
    return kind, reason


def _parts(table: Table, config: Config, tasks: np.ndarray, names: list[str], known: np.ndarray) -> list[str]:
    """The part of the data of each task, or nothing if no column tells."""
    if not config.split_column:
        return []
    texts = np.concatenate(
        [
            np.array([str(value) for value in b.column(0).to_pylist()], object)
            for b in table.batches([config.split_column])
        ]
    )
    part_of: dict[int, str] = {}
    for task, text in set(zip(tasks[known].tolist(), texts[known].tolist(), strict=True)):
        part = part_named(text)
        if part_of.setdefault(task, part) != part:
            raise InnerloopError(
                f"Task {names[task]!r} has rows in two parts of the data ({part_of[task]} and {part}); tasks are "
                f"split, never rows: mend {config.split_column!r}."
            )
    return [part_of.get(task, "train") for task in range(len(names))]


def _within_memory(
    known: np.ndarray, tasks: np.ndarray, features: Sequence[Column], seed: int, budget: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """All rows, or as many of each task as memory holds: large tasks are thinned first."""
    size = sum(feature.width * (1 if feature.small else 4 if feature.kind == "list" else 16) for feature in features)
    most = max((budget or int(MEMORY_SHARE * machine.free_memory())) // max(3 * size, 1), 1)
    rows = np.flatnonzero(known)
    if len(rows) <= most:
        return known, []
    counts = np.bincount(tasks[rows])
    low, high = 1, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= most else (low, middle - 1)
    order = np.random.default_rng(seed).permutation(rows)
    order = order[np.argsort(tasks[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(tasks[order]))[:-1]])
    kept = np.zeros_like(known)
    kept[order[np.arange(len(order)) - starts[tasks[order]] < low]] = True
    return kept, [f"memory holds {kept.sum():,} of {len(rows):,} rows: at most {low:,} of each task are read, by seed"]
