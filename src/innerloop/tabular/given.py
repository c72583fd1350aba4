"""What is handed to an estimator, checked where it comes in: rows of features, and a target for each of them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError


class Frame:
    """Columns by name, with the manners of a data frame.

    Attributes:
        columns: their names.
    """

    def __init__(self, values: Mapping[str, np.ndarray]):
        self._values = dict(values)
        self.columns = list(self._values)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[name]

    def __len__(self) -> int:
        return len(next(iter(self._values.values()), ()))


class Given(NamedTuple):
    """Rows with a target each, as `rows_given` checked them."""

    X: Any
    y: np.ndarray


def features_given(X: Any, name: str = "X") -> Any:
    """Features as a matrix or a data frame; a dict of columns and an Arrow table are made one.

    Raises:
        InnerloopError: if they are none of these, or columns differ in length.
    """
    if isinstance(X, Mapping):
        return _frame({str(column): np.asarray(values) for column, values in X.items()}, name)
    if hasattr(X, "to_pydict") and hasattr(X, "column_names"):
        columns = [X.column(i).to_pylist() for i in range(X.num_columns)]
        if len(set(X.column_names)) < len(columns):
            twice = next(column for column in X.column_names if X.column_names.count(column) > 1)
            raise InnerloopError(f"{name} has two columns of the name {twice!r}; rename one.")
        return _frame({column: _array(values) for column, values in zip(X.column_names, columns, strict=True)}, name)
    if hasattr(X, "columns"):
        return X
    try:
        matrix = np.asarray(X)
    except ValueError as error:  # rows of different lengths
        raise InnerloopError(f"{name} has rows of different lengths; it must be [rows, features].") from error
    if matrix.ndim != 2:
        raise InnerloopError(f"{name} has the shape {list(matrix.shape)}; it must be [rows, features].")
    return X


def rows_given(X: Any, y: Any, name: str = "y") -> Given:
    """Features and a target for each row.

    Args:
        X: a matrix, a data frame, a dict of columns or an Arrow table.
        y: `[rows]`, or a column `[rows, 1]`.
        name: of the target, for messages.

    Raises:
        InnerloopError: if lengths differ, or a target is missing or of another shape.
    """
    X = features_given(X)
    target = np.asarray(y.to_pylist() if hasattr(y, "to_pylist") else y)
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.ndim != 1:
        raise InnerloopError(
            f"{name} has the shape {list(target.shape)}; it must be [rows], a target for each row of X."
        )
    rows = _length(X)
    if rows != len(target):
        raise InnerloopError(f"X has {rows} rows and {name} has {len(target)} targets; each row needs one.")
    missing = [i for i, value in enumerate(target.tolist()) if _is_missing(value)]
    if missing:
        raise InnerloopError(
            f"{name} is missing in {len(missing)} of {rows} rows, the first of them row {missing[0]} (from 0); "
            "leave these rows out of X and y."
        )
    return Given(X, target)


def tasks_given(tasks: Any) -> dict[str, tuple[Any, np.ndarray]]:
    """Tasks by name, each with rows of features and a target for each.

    Raises:
        InnerloopError: naming the task that is something else.
    """
    if not isinstance(tasks, Mapping) and (isinstance(tasks, str) or not isinstance(tasks, Iterable)):
        raise InnerloopError(
            f"tasks must be a list of (X, y), or a dict of them by name, not a {type(tasks).__name__}."
        )
    named = tasks.items() if isinstance(tasks, Mapping) else ((str(i), task) for i, task in enumerate(tasks))
    found: dict[str, tuple[Any, np.ndarray]] = {}
    for name, task in named:
        if not isinstance(task, tuple | list) or len(task) != 2:
            raise InnerloopError(f"Task {name!r} must be (X, y), not a {type(task).__name__}.")
        X, y = task
        given = rows_given(X, y, f"y of task {name!r}")
        found[str(name)] = given.X, given.y
    return found


def _frame(values: dict[str, np.ndarray], name: str) -> Frame:
    if not values:
        raise InnerloopError(f"{name} has no columns.")
    lengths = {column: len(array) if array.ndim else 0 for column, array in values.items()}
    if len(set(lengths.values())) > 1 or any(not array.ndim for array in values.values()):
        shown = ", ".join(f"{column!r} {length}" for column, length in list(lengths.items())[:3])
        raise InnerloopError(f"{name} has columns of different lengths ({shown}); all need the same number of rows.")
    return Frame(values)


def _array(values: list[Any]) -> np.ndarray:
    """A column of an Arrow table; of gaps among numbers NaN is made where columns are read."""
    if any(value is None for value in values):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return np.asarray(values)


def _length(X: Any) -> int:
    shape = getattr(X, "shape", None)
    return int(shape[0]) if shape is not None else len(X)


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value
