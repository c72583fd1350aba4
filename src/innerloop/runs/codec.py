"""Between configurations (frozen dataclasses) and JSON, driven by their type hints.

A hint says what a field may hold: a plain type, a `Literal`, a tuple, an optional type, another dataclass, or a union
of dataclasses that are told apart by their `KIND`. Its bounds are part of the hint, `Annotated[int, Bounds(1)]`, so
that what is read from a file and what is given on the command line is refused by the same sentence.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from innerloop.errors import InnerloopError

T = TypeVar("T")
LARGEST = 2**31 - 1
"""No whole number may be larger: JAX counts in 32 bits."""
KIND = "KIND"
"""The class variable by which a union of dataclasses is told apart, in JSON as `kind`."""
FREE = ("log", "data_dir", "data", "run_dir")
"""The fields that may differ between two sittings with the same run: what data hold is known by their fingerprint."""
DEVICES = ("layout.shards", "layout.chunk", "layout.parameters")
"""The settings that may, too, if they are asked for: the same tasks, but sums in another order."""


@dataclass(frozen=True)
class Bounds:
    """Which numbers a field may hold.

    Attributes:
        low: the least.
        high: the largest.
        without_low: whether `low` itself is refused.
        without_high: whether `high` itself is refused.
        words: what is said of a number that it refuses.
    """

    low: int | float
    high: int | float
    without_low: bool = False
    without_high: bool = False
    words: str = ""

    def sentence(self, value: int | float) -> str | None:
        """What is wrong with a number, or `None` if nothing is."""
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        if above and below:
            return None
        if self.words:
            return self.words
        return f"it must be at least {self.low:g}" if not above else f"it must be at most {self.high:.0f}"


Whole: TypeAlias = Annotated[int, Bounds(0, LARGEST)]
"""A whole number from 0."""
Count: TypeAlias = Annotated[int, Bounds(1, LARGEST)]
"""A whole number from 1."""
Positive: TypeAlias = Annotated[float, Bounds(0, math.inf, True, True, "it must be a positive number")]
"""A finite number above 0."""
NotNegative: TypeAlias = Annotated[float, Bounds(0, math.inf, False, True, "it must be a number of at least 0")]
"""A finite number from 0."""
Inside: TypeAlias = Annotated[float, Bounds(0, 1, True, True, "it must be a number between 0 and 1")]
"""A number between 0 and 1, neither of them."""
Share: TypeAlias = Annotated[float, Bounds(0, 1, words="it must be between 0 and 1")]
"""A number from 0 to 1."""
BelowOne: TypeAlias = Annotated[float, Bounds(0, 1, False, True, "it must be at least 0 and below 1")]
"""A number from 0 to below 1."""


def flag(name: str) -> str:
    """The spelling of a setting on the command line."""
    return name.replace("_", "-")


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as `("inner.steps", 1)`."""
    for field in dataclasses.fields(config):
        value = vars(config)[field.name]
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def changed(config: T, changes: Mapping[str, Any]) -> T:
    """The configuration with other values of some settings, such as `{"inner.steps": 5}`."""
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        inner = changed(vars(config)[first], {rest: value}) if rest else value
        config = dataclasses.replace(config, **{first: inner})  # pyright: ignore[reportArgumentType,reportCallIssue]
    return config


def training_settings(config: Any) -> dict[str, Any]:
    """What the state after a number of meta-steps depends on, by flag."""
    apart = ("recipe", "evaluation", *FREE)
    settings = [item for item in leaves(config) if item[0].split(".")[0] not in apart and item[0] not in DEVICES]
    return {f"--{flag(name)}": value for name, value in settings}


def shared_settings(config: Any) -> dict[str, Any]:
    """What all processes of a run must agree on, by flag."""
    return {f"--{flag(name)}": value for name, value in leaves(config) if name.split(".")[0] not in FREE}


def differences(ours: Any, theirs: Any) -> list[str]:
    """The settings in which two configurations of a kind differ, beyond those that a run may change along the way."""
    left, right = dict(leaves(ours)), dict(leaves(theirs))
    free = (*FREE, *DEVICES)
    names = [name for name in left | right if not {name, name.split(".")[0]} & set(free)]
    names = [name for name in names if left.get(name) != right.get(name)]
    return [f"--{flag(name)} {right.get(name)} (now {left.get(name)})" for name in names]


def require_bounds(config: Any, prefix: str = "") -> None:
    """Refuse numbers that the fields' hints do not allow.

    Raises:
        InnerloopError: for the first one, naming its flag and what it must be.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, name = vars(config)[field.name], prefix + field.name
        if dataclasses.is_dataclass(value):
            require_bounds(value, f"{name}.")
            continue
        for bounds, number, several in _bounded(hints[field.name], value):
            sentence = bounds.sentence(number)
            if sentence is None and isinstance(number, int) and number > LARGEST:
                sentence = f"it must be at most {LARGEST}"
            if sentence and several:
                sentence = sentence.replace("it must be", "each must be")
            if sentence:
                raise InnerloopError(f"--{flag(name)} is {value}; {sentence}.")


def _bounded(hint: Any, value: Any) -> Iterator[tuple[Bounds, int | float, bool]]:
    """The bounds on a value with the numbers that they hold for, and whether these are several."""
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        yield from ((mark, value, False) for mark in marks if isinstance(mark, Bounds) and value is not None)
        yield from _bounded(kind, value)
    elif get_origin(hint) is tuple and isinstance(value, tuple):
        for item in value:
            yield from ((bounds, number, True) for bounds, number, _ in _bounded(get_args(hint)[0], item))
    elif hint in (int, float) and isinstance(value, int):
        yield Bounds(-math.inf, LARGEST), value, False


def encoded(config: Any) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = {}
    kind = _kind(type(config))
    if kind:
        values["kind"] = kind
    for field in dataclasses.fields(config):
        value = vars(config)[field.name]
        values[field.name] = encoded(value) if dataclasses.is_dataclass(value) else value
    return values


def decoded(cls: type[T], values: Any) -> T:
    """The inverse of `encoded`.

    Args:
        cls: the configuration's class.
        values: what JSON holds; fields with a default may be missing.

    Raises:
        InnerloopError: for what is no such configuration, naming the field.

    Example:
        >>> @dataclass(frozen=True)
        ... class Inner:
        ...     steps: Count = 1
        ...     widths: tuple[Count, ...] = ()
        >>> decoded(Inner, {"steps": 3, "widths": [4, 4]})
        Inner(steps=3, widths=(4, 4))
    """
    try:
        return _dataclass(cls, values, "")
    except _UnfitError as error:
        raise InnerloopError(f"This is no configuration of this version of innerloop ({error}).") from error


class _UnfitError(Exception):
    """A value is not what its field may hold."""


def _dataclass(cls: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise _UnfitError(f"{prefix.rstrip('.') or 'it'} is {values!r}")
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [name for name in values if name not in fields and not (name == "kind" and _kind(cls))]
    if unknown:
        raise _UnfitError(f"{prefix}{unknown[0]} is not a setting")
    found = {}
    for name, field in fields.items():
        if name in values:
            found[name] = _value(hints[name], values[name], prefix + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _UnfitError(f"{prefix}{name} is missing")
    return cls(**found)


def _value(hint: Any, value: Any, name: str) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        return _value(get_args(hint)[0], value, name)
    if origin is Literal:
        if value in get_args(hint) and not isinstance(value, bool):
            return value
    elif origin is tuple:
        kinds = get_args(hint)
        if isinstance(value, list | tuple) and (kinds[-1] is Ellipsis or len(kinds) == len(value)):
            return tuple(_value(kinds[0], item, name) for item in value)
    elif origin in (Union, UnionType):
        return _union(get_args(hint), value, name)
    elif dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, f"{name}.")
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):  # a number of hundreds of digits is refused below
                return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise _UnfitError(f"{name} is {value!r}")


def _union(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        chosen = [kind for kind in kinds if dataclasses.is_dataclass(kind) and _kind(kind) == value.get("kind")]
        if chosen:
            return _dataclass(chosen[0], value, f"{name}.")
    for kind in kinds:
        if value is None and kind is type(None):
            return None
        if kind is not type(None) and not dataclasses.is_dataclass(kind):
            try:
                return _value(kind, value, name)
            except _UnfitError:
                continue
    raise _UnfitError(f"{name} is {value!r}")


def _kind(cls: Any) -> str | None:
    """The name by which a class of a union is told apart."""
    return vars(cls).get(KIND)
