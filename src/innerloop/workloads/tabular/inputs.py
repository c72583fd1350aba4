"""Support and query tables at adaptation, held against what the learner was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs.recipe import nearest
from innerloop.tabular.artifact import TrainedLearner
from innerloop.workloads.tabular import pictures
from innerloop.workloads.tabular.rows import listed
from innerloop.workloads.tabular.tables import Column, Table, label_texts, read


class Support(NamedTuple):
    """Labelled rows of a task, and what was noticed."""

    columns: dict[str, np.ndarray]
    target: np.ndarray
    notes: tuple[str, ...]


class Query(NamedTuple):
    """Rows to predict, the columns that name them, their labels if there are any, and what was noticed."""

    columns: dict[str, np.ndarray]
    kept: dict[str, list[str]]
    target: np.ndarray | None
    rows: int
    notes: tuple[str, ...]


def support(learned: TrainedLearner, path: Path, target: str) -> Support:
    """The labelled rows of a new task.

    Raises:
        InnerloopError: if a feature or the target is missing or of another kind, or no row has a target.
    """
    if learned.design.image:
        files = pictures.images_below(_folder(path))
        labels = np.array([each.parent.name for each in files], object)
        return Support(_pixels(learned, files), labels, ())
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
    return Support(read(table, columns, known), values[known], notes)


def query(learned: TrainedLearner, path: Path, target: str) -> Query:
    """The rows to predict.

    Raises:
        InnerloopError: if a feature is missing or of another kind.
    """
    if learned.design.image:
        files = pictures.images_below(_folder(path))
        names = {"file": [str(each.relative_to(path)) for each in files]}
        return Query(_pixels(learned, files), names, None, len(files), ())
    table = Table(path)
    columns = matching_columns(learned, table)
    features = {each.name for each in columns}
    labels = None
    notes: tuple[str, ...] = ()
    if target in table.columns:
        values, known = _target(learned, table, target)
        notes = (f"{path} has the column {target!r}; it is not used for the predictions",)
        labels = values if known.all() else None
    names = [
        name for name, each in table.columns.items() if name not in features and name != target and each.kind != "list"
    ]
    kept: dict[str, list[str]] = {name: [] for name in names}
    for batch in table.batches(names) if names else ():
        for name in names:
            kept[name] += ["" if each is None else str(each) for each in batch.column(name).to_pylist()]
    return Query(read(table, columns), kept, labels, table.rows, notes)


def matching_columns(learned: TrainedLearner, table: Table) -> list[Column]:
    """The columns that the learner reads.

    Raises:
        InnerloopError: naming the features that are missing or differ.
    """
    wanted = {each.name: each for each in learned.preparation.features}
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        close = nearest(missing[0], table.columns)
        raise InnerloopError(
            f"{table.path} lacks {len(missing)} of the {len(wanted)} features of the learner: {listed(missing)}; "
            f"for {missing[0]!r}, {close}"
        )
    columns = []
    for name, feature in wanted.items():
        column = table.columns[name]
        text = column.kind in ("text", "other")
        if column.kind == "other" and table.format == "csv":  # empty in every row
            column, text = Column(name, "text" if feature.kind == "categories" else "number"), False
        if feature.kind == "categories":
            column = Column(name, "text")
        elif text and not column.problem:
            raise InnerloopError(f"{table.path} holds text in {name!r}, where the learner was trained on numbers.")
        elif feature.width > 1 and (column.kind != "list" or column.width != feature.width):
            raise InnerloopError(
                f"{name!r} of {table.path} has {column.width} entries in each row; the learner was trained on "
                f"{feature.width}."
            )
        columns.append(column)
    return columns


def _target(learned: TrainedLearner, table: Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The targets, and which rows have one."""
    if not learned.regression:
        labels = label_texts(table, name)
        return labels, np.array([each is not None for each in labels])
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
    height, width, channels = learned.design.image or (0, 0, 0)
    pixels = np.stack([pictures.pixels_of(each, (height, width), channels) for each in files])
    return {pictures.FEATURE: pixels.reshape(len(files), -1)}
