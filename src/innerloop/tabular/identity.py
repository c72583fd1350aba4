"""Names of tasks and labels of classes: they tell rows apart, and are never quantities."""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf(?:inity)?|nan", re.I | re.A)
WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0", re.A)
TRUTH = ("false", "true")
ABSENT = ("NAType", "NaTType", "NoneType")


def number_in(text: str) -> float | None:
    """The number that a text is, or `None`: `1_1` and digits of other scripts are none.

    Example:
        >>> number_in(" 1e3 "), number_in("1_1"), number_in("one")
        (1000.0, None, None)
    """
    text = text.strip()
    return float(text) if NUMBER.fullmatch(text) else None


def is_absent(value: Any) -> bool:
    """Whether a cell in memory is missing: `None`, NaN, or what pandas has for it."""
    if type(value).__name__ in ABSENT:
        return True
    return bool(np.isnat(value) if isinstance(value, np.datetime64 | np.timedelta64) else value != value)


def identities(values: Iterable[Any], *, written: bool = False) -> np.ndarray:
    """Texts that name what a column tells apart, so that different values have different names.

    A whole number is written as it is, however large; a text stays as it is, so `007`, `7`, `1E1` and `10` are four.
    What a whole column says of how it was written is taken back: a column of floating-point numbers that are all
    whole, as gaps make one of integers, and a column of nothing but true and false in any capitals.

    Args:
        values: the column, of any types.
        written: whether texts come from a file, in which a number is a text too.

    Returns:
        Texts `[rows]`, with `None` where one is missing.

    Example:
        >>> identities([1, 2**63, "007", "7", None]).tolist()
        ['1', '9223372036854775808', '007', '7', None]
        >>> identities([1.0, float("nan")]).tolist(), identities([1.0, 0.5]).tolist(), identities([True]).tolist()
        (['1', None], ['1.0', '0.5'], ['true'])
        >>> identities(["1.0", "2.0"], written=True).tolist(), identities(["TRUE", "False"]).tolist()
        (['1', '2'], ['true', 'false'])
    """
    given = [_plain(value) for value in values]
    distinct = {(type(value), value) for value in given if value is not None}
    names = dict(zip(distinct, _named([value for _, value in distinct], written), strict=True))
    return np.array([None if value is None else names[type(value), value] for value in given], object)


def _plain(value: Any) -> Any:
    """A value as one of Python's own, `None` where it is missing."""
    if is_absent(value):
        return None
    if isinstance(value, np.datetime64 | np.timedelta64):
        return str(value)
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float) else (str(value) or None)


def _named(distinct: Sequence[Any], written: bool) -> list[str]:
    """The names of different values of a column."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if numbers and all(float(value).is_integer() for value in distinct):
        return [str(int(value)) for value in distinct]
    texts = [str(value) for value in distinct]
    lowered = [text.lower() for text in texts]
    if set(lowered) <= set(TRUTH) and len(set(lowered)) == len(lowered):
        return lowered
    if all(isinstance(value, bool) or not isinstance(value, str) for value in distinct):
        return [text.lower() if isinstance(value, bool) else text for value, text in zip(distinct, texts, strict=True)]
    whole = [WHOLE_FLOAT.fullmatch(text) for text in texts] if written else [None]
    return [match[1] for match in whole if match] if all(whole) else texts


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in order, numbers by their value.

    Example:
        >>> in_order({"10", "9"}), in_order({"b", "10", "a"}), in_order({"7", "007"})
        (('9', '10'), ('10', 'a', 'b'), ('007', '7'))
    """
    labels = sorted(labels)
    if all(NUMBER.fullmatch(label) and np.isfinite(float(label)) for label in labels):
        return tuple(sorted(labels, key=Decimal))
    return tuple(labels)
