"""Support and query tables at adaptation, held against what the learner was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.pictures import images_below
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.columns import matched, require_features
from innerloop.tabular.features import Columns
from innerloop.tabular.images import format_of
from innerloop.text import listed
from innerloop.workloads.tabular import pictures
from innerloop.workloads.tabular.tables import Column, Table, label_texts, read


class Support(NamedTuple):
    """Labelled rows, the task of each if the table names it, and what was noticed."""

    columns: Columns
    target: np.ndarray
    tasks: np.ndarray | None
    notes: tuple[str, ...]


class Query(NamedTuple):
    """Rows to predict, the columns that name them, their labels and tasks if there are any, and what was noticed."""

    columns: Columns
    kept: dict[str, list[str]]
    target: np.ndarray | None
    tasks: np.ndarray | None
    rows: int
    notes: tuple[str, ...]


def support(learned: TrainedLearner, path: Path, target: str) -> Support:
    """The labelled rows of a new task.

    Raises:
        InnerloopError: if a feature or the target is missing or of another kind, or no row has a target.
    """
    if learned.design.image:
        files = images_below(_folder(path))
        if flat := [file.name for file in files if file.parent == path]:
            raise InnerloopError(
                f"{path} holds images that belong to no class ({listed(flat, 3)}); put those of each class into a "
                f"folder of its own, such as {path / 'CLASS' / flat[0]}."
            )
        labels = np.array([file.parent.name for file in files], object)
        return Support(_pixels(learned, files), labels, None, ())
    table = Table(path)
    columns = matching_columns(learned, table)
    if not target:
        raise InnerloopError(f"--target is needed: which column of {path} holds the labels?")
    table.require([target], "--target")
    values, known = _target(learned, table, target)
    if not known.any():
        raise InnerloopError(f"No row of {path} has a target in {target!r}; label some rows of the task.")
    left_out = f"{(~known).sum():,} of {len(known):,} support rows have no target and are left out"
    notes = () if known.all() else (left_out,)
    tasks = _tasks(learned, table)
    return Support(_read(learned, table, columns, known), values[known], None if tasks is None else tasks[known], notes)


def query(learned: TrainedLearner, path: Path, target: str) -> Query:
    """The rows to predict.

    Raises:
        InnerloopError: if a feature is missing or of another kind.
    """
    if learned.design.image:
        files = images_below(_folder(path))
        names = {"file": [str(file.relative_to(path)) for file in files]}
        folders = all(file.parent != path for file in files)
        labels = np.array([file.parent.name for file in files], object) if folders else None
        return Query(_pixels(learned, files), names, labels, None, len(files), ())
    table = Table(path)
    columns = matching_columns(learned, table)
    features = {column.name for column in columns}
    labels = None
    notes: tuple[str, ...] = ()
    if target in table.columns:
        values, known = _target(learned, table, target)
        notes = (f"{path} has the column {target!r}; it is not used for the predictions",)
        labels = values if known.all() else None
    names = [
        name
        for name, value in table.columns.items()
        if name not in features and name != target and value.kind != "list"
    ]
    kept: dict[str, list[str]] = {name: [] for name in names}
    for batch in table.batches(names) if names else ():
        for name in names:
            kept[name] += ["" if value is None else str(value) for value in batch.column(name).to_pylist()]
    return Query(_read(learned, table, columns), kept, labels, _tasks(learned, table), table.rows, notes)


def matching_columns(learned: TrainedLearner, table: Table) -> list[Column]:
    """The columns that the learner reads.

    Raises:
        InnerloopError: naming the features that are missing or differ.
    """
    features = learned.preparation.features
    require_features(table.columns, features, str(table.path))
    columns = []
    for feature in features:
        name, column = feature.name, table.columns[feature.name]
        if column.kind == "text" and feature.kind == "numbers":  # perhaps dates
            column = table.described([name])[name]
        text = column.kind in ("text", "other")
        if column.kind == "other" and table.format == "csv":  # empty in every row
            column, text = Column(name, "text" if feature.of_text else "number"), False
        if feature.of_text:
            column = Column(name, "text")
        elif text and not column.problem:
            raise InnerloopError(f"{table.path} holds text in {name!r}, where the learner was trained on numbers.")
        columns.append(column)
    return columns


def _read(learned: TrainedLearner, table: Table, columns: list[Column], kept: np.ndarray | None = None) -> Columns:
    """The features of the rows, or of some of them."""
    return matched(read(table, columns, kept), learned.preparation.features, str(table.path))


def _tasks(learned: TrainedLearner, table: Table) -> np.ndarray | None:
    """The task of each row, if the table has the column that named tasks in training, and no feature has its name."""
    name = str(learned.facts.get("task_column") or "")
    if name not in table.columns or name in {feature.name for feature in learned.preparation.features}:
        return None
    return label_texts(table, name)


def _target(learned: TrainedLearner, table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The targets, and which rows have one."""
    if not learned.regression:
        labels = label_texts(table, name)
        return labels, np.array([label is not None for label in labels])
    column = table.columns[name]
    if column.kind not in ("number", "truth", "other"):
        raise InnerloopError(f"The target {name!r} of {table.path} holds text; the learner predicts numbers.")
    values = read(table, [column])[name] if column.kind != "other" else np.full(table.rows, np.nan)
    return values, np.isfinite(values)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InnerloopError(f"{path} is no folder; this learner was trained on images, give folders of them.")
    return path


def _pixels(learned: TrainedLearner, files: Sequence[Path]) -> dict[str, np.ndarray]:
    shape = learned.design.image
    assert shape is not None
    return {pictures.FEATURE: format_of(shape).read(files).reshape(len(files), -1)}
