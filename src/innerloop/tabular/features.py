r"""Features as they come (numbers on any scale, lists, counts, categories, gaps) made into what a network reads.

What is fitted is fitted on training rows alone, and is plain data: `Preparation.from_json` of `to_json` gives the same
bits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.pooled import Trees
from innerloop.tabular.texts import SIGNATURE, Effects, effects, effects_at, names_rows, signatures

Columns: TypeAlias = Mapping[str, np.ndarray]
"""Feature columns by name: numbers `[rows]` or `[rows, width]`, or texts `[rows]` with `None` where one is missing."""

LIMIT = 5.0
"""Scaled values are cut off here."""
LARGEST = 1e150
"""Numbers whose squares are no numbers cannot be scaled."""
LARGEST_CATEGORIES = 64
TAIL = 1.0
"""Percent of the values on each side that do not count for the spread of a feature."""


class Inputs(NamedTuple):
    """Rows as a network reads them.

    Attributes:
        counts: small whole numbers, read as $\\log(1 + x)$, unsigned bytes `[rows, counts]`.
        numbers: scaled numbers, indicators of missing values and categories, `[rows, numbers]`.
    """

    counts: Any
    numbers: Any


@dataclass(frozen=True)
class Feature:
    """How one column is read. The tuples have one entry for each entry of the column that is used.

    Attributes:
        name: of the column.
        kind: unsigned bytes as counts, numbers, texts as categories, or texts of more different values than these may
            have, see `innerloop.tabular.texts`.
        width: entries of a value; 1 for a plain column.
        used: the entries that vary in training.
        center: median of each used number.
        scale: its spread, positive.
        gaps: places among `used` that were missing somewhere in training, which get an indicator.
        categories: the texts that training saw.
        levels: the texts that had an effect in training.
        effects: of each of them, one after another.
    """

    name: str
    kind: Literal["counts", "numbers", "categories", "texts"]
    width: int
    used: tuple[int, ...] = ()
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    gaps: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    effects: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Entries that the network reads."""
        if self.kind == "categories":
            return len(self.categories)
        return len(self.used) + len(self.gaps) + self.meaning.outputs

    @property
    def of_text(self) -> bool:
        """Whether the column holds texts."""
        return self.kind in ("categories", "texts")

    @cached_property
    def meaning(self) -> Effects:
        """What texts of many different values meant in training."""
        return Effects(self.levels, self.effects, len(self.effects) // max(len(self.levels), 1))

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`used`, `center`, `scale` and `gaps` as arrays."""
        used, gaps = (np.array(places, np.int64) for places in (self.used, self.gaps))
        return used, np.array(self.center), np.array(self.scale), gaps


@dataclass(frozen=True)
class Preparation:
    """What was learned of the features in training.

    Attributes:
        features: in the order in which the network reads them.
        pooled: a model of all training rows together, whose predictions are the last numbers of a row.
    """

    features: tuple[Feature, ...]
    pooled: Trees | None = None

    @classmethod
    def fit(cls, columns: Columns) -> "Preparation":
        """Median and spread of numbers, the categories of texts, and which entries vary, from training rows.

        The spread is the larger of the interquartile range (divided by 1.349, as for a normal distribution) and of the
        standard deviation without the outermost percent on each side. So neither a single value of 1e16 nor a column
        that is mostly zero spoils the scale.

        Args:
            columns: training rows, or a fair sample of them.

        Raises:
            InnerloopError: if there is no feature, or none varies.

        Example:
            >>> import numpy as np
            >>> x = np.array([1.0, 2.0, 3.0, np.nan, 1e16])
            >>> preparation = Preparation.fit({"size": x, "kind": np.array(["a", "b", "a", "b", None], object)})
            >>> preparation.encode({"size": x, "kind": np.array(["a", "c", "b", "a", None], object)}).numbers.shape
            (5, 4)
        """
        features = tuple(_fit(name, values) for name, values in columns.items())
        if not features:
            raise InnerloopError("There are no features; name at least one column.")
        if not any(feature.outputs for feature in features):
            raise InnerloopError(
                f"No feature varies over the training rows ({', '.join(feature.name for feature in features[:5])}); "
                "there is nothing to learn from."
            )
        return cls(features)

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of counts and of numbers that the network reads."""
        counts = sum(feature.outputs for feature in self.features if feature.kind == "counts")
        pooled = self.pooled.outputs if self.pooled else 0
        return counts, sum(feature.outputs for feature in self.features) - counts + pooled

    def with_effects(self, columns: Columns, targets: np.ndarray, tasks: np.ndarray) -> "Preparation":
        """The same with what texts of many different values meant in training.

        Args:
            columns: training rows.
            targets: of each, as numbers, `[rows, outputs]`.
            tasks: the task of each row.
        """
        features = []
        for feature in self.features:
            found = (
                effects(columns[feature.name], targets, tasks)
                if feature.kind == "texts" and feature.used
                else Effects()
            )
            features.append(replace(feature, levels=found.levels, effects=found.values))
        return replace(self, features=tuple(features))

    def encode(self, columns: Columns, elsewhere: Columns | None = None) -> Inputs:
        """The rows as the network reads them.

        Args:
            columns: the rows.
            elsewhere: of training rows, by feature, the effects of their texts in other tasks, which then take the
                place of those in all tasks.

        Raises:
            InnerloopError: if a feature is missing, or has another width or type than in training.
        """
        rows = {len(values) for values in columns.values()}
        counts, numbers = [], []
        for feature in self.features:
            if feature.name not in columns:
                raise InnerloopError(f"The feature {feature.name!r} is missing; training had it.")
            values = columns[feature.name]
            read = _encode(feature, values, (elsewhere or {}).get(feature.name))
            (counts if feature.kind == "counts" else numbers).append(read)
        number = rows.pop() if len(rows) == 1 else len(next(iter(columns.values())))
        inputs = Inputs(
            np.concatenate([np.zeros((number, 0), np.uint8), *counts], axis=1),
            np.concatenate([np.zeros((number, 0), np.float32), *numbers], axis=1),
        )
        return inputs if self.pooled is None else with_pooled(inputs, self.pooled.predict(as_matrix(inputs)))

    def to_json(self) -> list[dict[str, Any]]:
        """As plain lists and numbers."""
        return [asdict(feature) for feature in self.features]

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> "Preparation":
        """The inverse of `to_json`.

        Raises:
            InnerloopError: if it is no such description.
        """
        try:
            listed: list[dict[str, Any]] = [
                {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}
                for item in values
            ]
            return cls(tuple(Feature(**entry) for entry in listed))
        except (TypeError, AttributeError) as error:
            raise InnerloopError(
                f"This is no description of features of this version of innerloop ({error})."
            ) from error


def as_matrix(inputs: Inputs) -> np.ndarray:
    """Rows as a model of scikit-learn reads them, `[rows, features]`."""
    return np.concatenate([np.log1p(inputs.counts.astype(np.float32)), inputs.numbers], axis=1)


def with_pooled(inputs: Inputs, predicted: np.ndarray) -> Inputs:
    """Rows, and behind their numbers what a pooled model predicts of them: targets, or logits of mean 0."""
    if predicted.shape[1] > 1:
        predicted = predicted - predicted.mean(axis=1, keepdims=True)
    return inputs._replace(numbers=np.concatenate([inputs.numbers, predicted.astype(np.float32)], axis=1))


def _fit(name: str, values: np.ndarray) -> Feature:
    if values.dtype.kind in "OUS":
        texts, counts = np.unique([str(value) for value in values if value is not None], return_counts=True)
        if len(texts) > LARGEST_CATEGORIES:
            return Feature(name, "texts", 1, () if names_rows(values) else tuple(range(SIGNATURE)))
        common = texts[np.argsort(-counts, kind="stable")][:LARGEST_CATEGORIES]
        return Feature(name, "categories", 1, categories=tuple(sorted(str(text) for text in common)))
    table = values.reshape(len(values), -1)
    if values.dtype == np.uint8:
        used = np.flatnonzero(table.max(axis=0) != table.min(axis=0))
        return Feature(name, "counts", table.shape[1], tuple(used.tolist()))
    used, center, scale, gaps = [], [], [], []
    for i in range(table.shape[1]):
        column = np.array(table[:, i], np.float64)
        known = column[np.isfinite(column)]
        if known.size and np.abs(known).max() > LARGEST:
            raise InnerloopError(
                f"The feature {name!r} holds {known[np.argmax(np.abs(known))]:g}; numbers must be below {LARGEST:g} in "
                "size. If it stands for a missing value, leave the cell empty; else scale the column."
            )
        missing = known.size < column.size
        if known.size == 0 or (known.min() == known.max() and not missing):
            continue
        low, first, middle, third, high = np.percentile(known, [TAIL, 25, 50, 75, 100 - TAIL])
        spread = max((third - first) / 1.349, float(np.std(np.clip(known, low, high))))
        if missing:
            gaps.append(len(used))
        used.append(i)
        center.append(float(middle))
        scale.append(
            spread if spread > 0 else float(np.std(known / (peak := np.abs(known).max() or 1.0))) * peak or 1.0
        )
    return Feature(name, "numbers", table.shape[1], tuple(used), tuple(center), tuple(scale), tuple(gaps))


def _encode(feature: Feature, values: np.ndarray, elsewhere: np.ndarray | None = None) -> np.ndarray:
    if feature.of_text:
        texts = np.array([None if value is None else str(value) for value in values], object)
        if feature.kind == "texts":
            meant = effects_at(feature.meaning, texts) if elsewhere is None else elsewhere
            read = signatures(texts) if feature.used else np.zeros((len(texts), 0), np.float32)
            return np.concatenate([read, np.clip(meant, -LIMIT, LIMIT)], axis=1)
        return (texts[:, None] == np.array(feature.categories, object)[None]).astype(np.float32)
    if values.dtype.kind in "OUS":
        raise InnerloopError(f"The feature {feature.name!r} holds text; training had numbers there.")
    table = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if table.shape[1] != feature.width:
        raise InnerloopError(
            f"The feature {feature.name!r} has {table.shape[1]} entries for each row; training had {feature.width}."
        )
    used, center, scale, gaps = feature.arrays
    if feature.kind == "counts":
        whole = np.nan_to_num(table[:, used], posinf=255, neginf=0) if table.dtype.kind == "f" else table[:, used]
        return np.clip(whole, 0, 255).astype(np.uint8)
    chosen = np.array(table[:, used], np.float64)
    known = np.isfinite(chosen)
    scaled = (np.where(known, chosen, 0.0) - center) / scale
    scaled = np.where(known, np.clip(scaled, -LIMIT, LIMIT), 0.0)
    missing = ~known[:, gaps]
    return np.concatenate([scaled, missing], axis=1).astype(np.float32)
