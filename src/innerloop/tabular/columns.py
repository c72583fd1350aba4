"""Columns and targets of rows, whatever they come from: a file, a data frame, a matrix, a request.

One reading of labels, one inference of what is predicted, and one check that rows have what a learner reads.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.features import Columns, Feature
from innerloop.tabular.identity import identities, is_absent
from innerloop.text import listed, nearest

Kind = Literal["classification", "regression"]
KINDS: tuple[Kind, ...] = ("classification", "regression")

NANOSECONDS, DAYS, EPOCH = 86_400e9, 365.2425, 1970.0
DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?Z?)?", re.ASCII)
"""A date, or a date and a time of day in universal time, as ISO 8601 has them."""
MOST_CLASSES = 20
"""A target of whole numbers with no more different values than this is one of classes."""


def infer_kind(target: Any, name: str = "the target") -> tuple[Kind, str]:
    """Whether a target is one of classes or a real number, and why, in a line.

    Texts and truth values are classes; so are whole numbers, if there are at most 20 different ones; all other numbers
    are a regression.

    Args:
        target: of all rows, of any type; `None` and NaN are left out.
        name: of the target, for the reason.

    Example:
        >>> import numpy as np
        >>> infer_kind(["yes", "no"])
        ('classification', 'classification: the target holds texts or truth values')
        >>> infer_kind([1, 2, 1])
        ('classification', 'classification: the target has 2 different values, whole numbers')
        >>> infer_kind(np.arange(30), "age")
        ('regression', 'regression: age has 30 different values, more than the 20 that classes may have')
        >>> infer_kind([0.5, 1.0])
        ('regression', 'regression: the target has 2 different values, not all whole numbers')
    """
    numbers = as_numbers(np.asarray(target))
    if numbers is None:
        return "classification", f"classification: {name} holds texts or truth values"
    values = np.unique(numbers[np.isfinite(numbers)])
    whole = bool((values == np.round(values)).all())
    if whole and len(values) <= MOST_CLASSES:
        return "classification", f"classification: {name} has {len(values)} different values, whole numbers"
    why = f"more than the {MOST_CLASSES} that classes may have" if whole else "not all whole numbers"
    return "regression", f"regression: {name} has {len(values):,} different values, {why}"


def kind_named(name: str) -> Kind:
    """What is predicted, by its name.

    Raises:
        InnerloopError: if there is no such kind.
    """
    if name in KINDS:
        return name
    raise InnerloopError(f"kind is {name!r}; {nearest(name, ('auto', *KINDS))}")


def as_target(values: Any, kind: Kind, name: str = "the target") -> np.ndarray:
    """A target as a learner reads it: numbers for a regression, label texts for classes.

    Args:
        values: of each row, of any type.
        kind: what is predicted.
        name: of the target, for the message.

    Returns:
        `[rows]`, with NaN or `None` where one is missing.

    Raises:
        InnerloopError: if a regression's target is no number.
    """
    given = np.asarray(values)
    if given.ndim == 2 and given.shape[1] == 1:
        given, values = given[:, 0], given[:, 0]
    if given.ndim != 1:
        raise InnerloopError(f"{name} has the shape {list(given.shape)}; it must be [rows], one target for each row.")
    if kind == "classification":
        return identities(values if isinstance(values, list | tuple) else given.tolist())
    if given.dtype.kind == "b":
        return given.astype(np.float64)
    numbers = as_numbers(given)
    if numbers is None:
        text = next(value for value in given.tolist() if value is not None and not isinstance(value, int | float))
        raise InnerloopError(f"A regression needs numbers, but {name} holds {text!r}; give numbers, or classes.")
    return numbers


def named_columns(X: Any) -> dict[str, np.ndarray]:
    """The columns of a matrix by their number, or of a data frame by their name.

    Raises:
        InnerloopError: if a matrix has another shape.
    """
    if isinstance(X, Mapping):
        return {str(name): as_column(np.asarray(values)) for name, values in X.items()}
    if hasattr(X, "columns"):
        return {str(name): as_column(values) for name, values in _frame_columns(X)}
    values = np.asarray(X)
    if values.ndim != 2:
        raise InnerloopError(f"X has the shape {list(values.shape)}; it must be [rows, features].")
    return {str(i): as_column(values[:, i]) for i in range(values.shape[1])}


def _frame_columns(X: Any) -> list[tuple[Any, np.ndarray]]:
    """The columns of a data frame by name, through narwhals where it knows the kind of frame."""
    if find_spec("narwhals"):
        narwhals: Any = import_module("narwhals")
        frame = narwhals.from_native(X, eager_only=True, pass_through=True)
        if frame is not X:
            return [(name, frame[name].to_numpy()) for name in frame.columns]
    return [(name, np.asarray(X[name])) for name in X.columns]


def columns_of(X: Any, features: Sequence[Feature]) -> Columns:
    """The features that a learner reads: by name from a data frame, by order from a matrix.

    Raises:
        InnerloopError: if X lacks one, or it is not what the learner was trained on.
    """
    if hasattr(X, "columns") or isinstance(X, Mapping):
        return matched(named_columns(X), features, "X")
    values = np.asarray(X)
    width = sum(feature.width for feature in features)
    if values.ndim != 2 or values.shape[1] != width:
        raise InnerloopError(f"X has the shape {list(values.shape)}; this learner reads {width} features of each row.")
    ends = np.cumsum([feature.width for feature in features])
    parts = {}
    for feature, end in zip(features, ends.tolist(), strict=True):
        part = values[:, end - feature.width : end]
        parts[feature.name] = as_column(part[:, 0]) if feature.width == 1 else part
    return matched(parts, features, "X")


def matched(columns: Mapping[str, Any], features: Sequence[Feature], where: str) -> Columns:
    """The columns that a learner reads, of the types that it was trained on; others are left out.

    Args:
        columns: by name, arrays or lists with an entry for each row.
        features: what the learner reads.
        where: the columns come from, for messages.

    Raises:
        InnerloopError: if one is missing, holds text in the place of numbers, or has another width or length.
    """
    require_features(columns, features, where)
    arrays = {feature.name: _matching(columns[feature.name], feature, where) for feature in features}
    lengths = sorted({len(values) for values in arrays.values()})
    if len(lengths) > 1:
        raise InnerloopError(f"{where} has columns of {lengths[:5]} rows; all need the same number.")
    return arrays


def require_features(names: Iterable[str], features: Sequence[Feature], where: str) -> None:
    """Refuse columns among which a feature is missing.

    Raises:
        InnerloopError: naming what is missing, and the nearest name.
    """
    names = list(names)
    missing = [feature.name for feature in features if feature.name not in names]
    if missing:
        close = f"for {missing[0]!r}, {nearest(missing[0], names)}" if names else "there are no columns."
        raise InnerloopError(
            f"{where} lacks {len(missing)} of the {len(features)} features of the learner: {listed(missing)}; {close}"
        )


def as_column(values: np.ndarray) -> np.ndarray:
    """A column as features are read: numbers `[rows]` or `[rows, width]`, or texts with `None` where one is missing.

    A date is the year with its fraction, a span of time its days; texts that are all dates (ISO 8601) are dates.

    Example:
        >>> as_column(np.array(["2024-07-02", None, "2024-01-01T12:00"], object)).round(2).tolist()
        [2024.5, nan, 2024.0]
    """
    if values.dtype.kind in "mM":
        days = values.astype("m8[ns]" if values.dtype.kind == "m" else "M8[ns]").astype("int64") / NANOSECONDS
        days = np.where(np.isnat(values), np.nan, days)
        return days if values.dtype.kind == "m" else EPOCH + days / DAYS
    if values.dtype.kind == "O" and len(values) and (dates := _dates(values)) is not None:
        return as_column(dates)
    if values.dtype.kind in "US":
        return as_column(np.array(values.tolist(), object))
    if values.dtype.kind != "O":
        return values
    numbers = as_numbers(values)
    if numbers is not None:
        return numbers
    rows = values.tolist()
    if rows and all(isinstance(row, list | tuple | np.ndarray) for row in rows):
        return np.array([np.asarray(row, np.float64) for row in rows])
    return np.array([None if is_absent(row) else str(row) for row in rows], object)


def as_numbers(values: np.ndarray) -> np.ndarray | None:
    """Numbers `[rows]` with NaN where one is missing, or `None` if there are texts or truth values among them."""
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    rows = values.tolist() if values.dtype.kind == "O" else [""]
    if any(isinstance(row, bool) or not (is_absent(row) or isinstance(row, int | float | np.number)) for row in rows):
        return None
    return np.array([np.nan if is_absent(row) else float(row) for row in rows], np.float64)


def is_date(text: Any) -> bool:
    """Whether it is the text of a date.

    Example:
        >>> is_date("2024-02-29"), is_date("2024-02-30"), is_date("2024"), is_date("2024-02-29 23:59:00")
        (True, False, False, True)
    """
    if not isinstance(text, str) or not DATE.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        return False
    return True


def _dates(values: np.ndarray) -> np.ndarray | None:
    """Objects that are dates, all but missing ones, as an array of them."""
    known = [value for value in values.tolist() if not is_absent(value)]
    if not known or not all(isinstance(value, date) or is_date(value) for value in known):
        return None
    texts = [
        None if is_absent(value) else value.removesuffix("Z") if isinstance(value, str) else value.isoformat()
        for value in values.tolist()
    ]
    return np.array([np.datetime64("NaT") if text is None else np.datetime64(text[:26], "ns") for text in texts])


def _matching(values: Any, feature: Feature, where: str) -> np.ndarray:
    """One column as the learner reads it."""
    if feature.of_text:
        texts = [None if is_absent(value) else str(value) for value in np.asarray(values).ravel().tolist()]
        return np.array(texts, object)
    wanted = "a number" if feature.width == 1 else f"a list of {feature.width} numbers"
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":  # numbers with gaps
            array = np.array(values, np.float64)
        if array.dtype.kind not in "iufb" or not array.ndim:
            raise TypeError(array.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InnerloopError(
            f"{feature.name!r} of {where} must hold {wanted} in each row, as the learner was trained on."
        ) from error
    if not len(array):
        return np.zeros((0, feature.width))
    entries = int(np.prod(array.shape[1:]))
    if entries != feature.width:
        raise InnerloopError(
            f"{feature.name!r} of {where} has {entries} entries in each row; the learner was trained on {wanted} there."
        )
    return array.reshape(len(array), *((entries,) if entries > 1 else ()))
