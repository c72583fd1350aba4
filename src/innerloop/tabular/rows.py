"""Rows of tasks in memory, whatever they were read from, and how tasks are split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.columns import as_target, infer_kind, kind_named, named_columns

PARTS = ("train", "valid", "test")
SYNONYMS = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}
PART_NAMES = frozenset({*PARTS, *SYNONYMS})


class Rows(NamedTuple):
    """Rows with a target and a task each.

    Attributes:
        columns: features by name.
        target: texts, or real numbers, `[rows]`.
        tasks: index into `names`, `[rows]`.
        names: of the tasks.
        parts: for each task its part of the data, or `None` if no column tells.
        notes: what was left out or noticed on reading, a sentence each.
        image: height, width and channels, if the rows are images.
    """

    columns: dict[str, np.ndarray]
    target: np.ndarray
    tasks: np.ndarray
    names: tuple[str, ...]
    parts: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    image: tuple[int, int, int] | None = None

    @property
    def regression(self) -> bool:
        return self.target.dtype.kind == "f"


def take(rows: Rows, chosen: np.ndarray) -> Rows:
    """Some of the rows, with the tasks that they belong to.

    Args:
        rows: all rows.
        chosen: indices of rows.
    """
    kept = np.unique(rows.tasks[chosen])
    return rows._replace(
        columns={name: values[chosen] for name, values in rows.columns.items()},
        target=rows.target[chosen],
        tasks=np.searchsorted(kept, rows.tasks[chosen]).astype(np.int32),
        names=tuple(rows.names[task] for task in kept),
        parts=tuple(rows.parts[task] for task in kept) if rows.parts else None,
    )


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of two parts of the same data, of which no task is in both."""
    parts = None if first.parts is None or second.parts is None else (*first.parts, *second.parts)
    return first._replace(
        columns={name: np.concatenate([values, second.columns[name]]) for name, values in first.columns.items()},
        target=np.concatenate([first.target, second.target]),
        tasks=np.concatenate([first.tasks, second.tasks + len(first.names)]).astype(np.int32),
        names=(*first.names, *second.names),
        parts=parts,
    )


def rows_of(rows: Rows, tasks: Sequence[int] | np.ndarray) -> Rows:
    """The rows of some tasks."""
    return take(rows, np.flatnonzero(np.isin(rows.tasks, np.asarray(tasks, np.int64))))


def usable(rows: Rows, smallest: int) -> tuple[Rows, list[tuple[str, str]]]:
    """The tasks that can be learned from, and those left out with the reason.

    Args:
        rows: all rows.
        smallest: rows that a task needs.

    Raises:
        InnerloopError: if no task is left.
    """
    left_out: list[tuple[str, str]] = []
    kept: list[int] = []
    order = np.argsort(rows.tasks, kind="stable")
    bounds = np.searchsorted(rows.tasks[order], np.arange(len(rows.names) + 1))
    for task, name in enumerate(rows.names):
        target = rows.target[order[bounds[task] : bounds[task + 1]]]
        if len(target) < smallest:
            left_out.append((name, f"{len(target)} rows, and {smallest} are needed"))
        elif not rows.regression and len(set(target.tolist())) < 2:
            left_out.append((name, "one class only"))
        elif rows.regression and target.min() == target.max():
            left_out.append((name, "one target only"))
        else:
            kept.append(task)
    if not kept:
        name, why = left_out[0] if left_out else ("", "there is no row")
        raise InnerloopError(
            f"None of the {len(rows.names)} tasks can be learned from (task {name!r}: {why}); a task needs at least "
            f"{smallest} rows and two classes."
        )
    return (rows_of(rows, kept) if left_out else rows), left_out


def split(rows: Rows, seed: int, least: int = 1) -> dict[str, Rows]:
    """Training, validation and test tasks: as the data says, or a tenth (at least two) each for the last two by seed.

    Args:
        rows: the tasks.
        seed: of the draw.
        least: tasks that are held out at least, for each of the two.

    Raises:
        InnerloopError: if there are too few tasks, or no training task.
    """
    number = len(rows.names)
    if rows.parts is not None:
        parts = np.array(rows.parts)
    else:
        if number < 5:
            raise InnerloopError(
                f"There are {number} tasks that can be learned from; at least 5 are needed, so that some can be held "
                "out (many tasks are what meta-learning learns from)."
            )
        held = max(number // 10, 1 if number < 10 else 2, least)
        order = np.random.default_rng(seed).permutation(number)
        parts = np.full(number, "train", object)
        parts[order[:held]], parts[order[held : 2 * held]] = "test", "valid"
    if not (parts == "train").any():
        raise InnerloopError("No task belongs to the training part; the split column must say train somewhere.")
    return {part: rows_of(rows, np.flatnonzero(parts == part)) for part in PARTS if (parts == part).any()}


def part_named(text: str) -> str:
    """The part of the data that a cell of the split column names.

    Raises:
        InnerloopError: if it names none.
    """
    part = SYNONYMS.get(text.strip().lower(), text.strip().lower())
    if part not in PARTS:
        raise InnerloopError(f"The split column says {text!r}; it must say train, valid or test.")
    return part


def rows_of_tasks(
    tasks: Sequence[tuple[Any, Any]] | Mapping[str, tuple[Any, Any]], kind: str = "auto"
) -> tuple[Rows, str]:
    """Tasks in memory as rows.

    Args:
        tasks: features and targets of each task, `(X, y)`, by name or in order.
        kind: what is predicted; `"auto"` infers it from all targets together.

    Returns:
        The rows, and why the targets are taken for what they are taken for.

    Raises:
        InnerloopError: if there is none, or they do not agree in their features.
    """
    named = dict(tasks) if isinstance(tasks, Mapping) else {str(i): task for i, task in enumerate(tasks)}
    if not named:
        raise InnerloopError("There are no tasks; give a list of (X, y).")
    columns: list[dict[str, np.ndarray]] = []
    targets, owners = [], []
    for i, (name, (X, y)) in enumerate(named.items()):
        columns.append(named_columns(X))
        targets.append(np.asarray(y))
        if columns[-1].keys() != columns[0].keys() or len(targets[-1]) != len(next(iter(columns[-1].values()))):
            raise InnerloopError(
                f"Task {name!r} has {len(columns[-1])} features and {len(targets[-1])} targets; all tasks need the "
                f"features of the first ({len(columns[0])}), and a target for each row."
            )
        owners.append(np.full(len(targets[-1]), i, np.int32))
    target = np.concatenate(targets)
    if kind == "auto":
        chosen, reason = infer_kind(target, "y")
    else:
        chosen, reason = kind_named(kind), f"{kind}: as kind says"
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    return Rows(joined, as_target(target, chosen, "y"), np.concatenate(owners), tuple(named)), reason
