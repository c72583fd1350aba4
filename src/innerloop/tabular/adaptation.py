"""Adaptation of a trained learner to tasks: point predictions, probabilities, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop import programs
from innerloop.errors import InnerloopError
from innerloop.tabular import learner
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.certainty import NORMAL
from innerloop.tabular.episodes import padded_size
from innerloop.tabular.features import Columns, Inputs
from innerloop.tabular.identity import in_order
from innerloop.tabular.learner import Adapted
from innerloop.types import Examples

FOLDS = 8
"""Adaptations of a regression, each without some of the support rows, whose errors there tell the noise of the task."""
SMALLEST_SPREAD = 1e-12
"""Of support targets, relative to their size: below it they are all the same."""
BLOCK = 4096
"""Rows that are predicted at once."""
SMALLEST_BLOCK = 64
"""Fewer rows are filled up, so that what is predicted of a row has the same bits whichever few rows stand beside it."""


class SupportTargets(NamedTuple):
    """Targets of a support set as the learner reads them.

    Attributes:
        labels: the classes of the task, in order; empty for regression.
        places: the head's output for each of them.
        outputs: of the head, few different numbers.
        y: class of each row, or target in units of `scale` from `center`, `[rows]`.
        center: of a regression's targets.
        scale: of a regression's targets.
    """

    labels: tuple[str, ...]
    places: tuple[int, ...]
    outputs: int
    y: np.ndarray
    center: float = 0.0
    scale: float = 1.0

    def original(self, scores: np.ndarray) -> np.ndarray:
        """Predicted targets of a regression in their own units."""
        return np.asarray(scores, np.float64) * self.scale + self.center


class Support(NamedTuple):
    """What a learner adapts to.

    Attributes:
        columns: features of the support rows.
        target: their labels as texts, or real targets, `[rows]`.
        weight: how much each row counts, `[rows]`; `None` counts all alike.
    """

    columns: Columns
    target: np.ndarray
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class AdaptedTask:
    """A learner adapted to one task.

    Attributes:
        learned: the learner.
        support: the targets that it was adapted to.
        adapted: its parameters; leaves `[1, ...]`.
        error: mean squared error on support rows by adaptations without them, in units of `support.scale`; `None` if
            it was not asked for, or there is one row.
    """

    learned: TrainedLearner
    support: SupportTargets
    adapted: Adapted
    error: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the task, in order; empty for regression."""
        return self.support.labels

    @property
    def curve(self) -> list[float]:
        """Support loss after 0, 1, ..., k inner steps."""
        return [float(loss) for loss in np.asarray(self.adapted.losses)[0]]

    @property
    def half_width(self) -> float:
        """Of the 90 % predictive interval of a regression, in the targets' units."""
        return self.learned.certainty.half_width(len(self.support.y), self.error) * self.support.scale

    def probabilities(self, columns: Columns) -> np.ndarray:
        """The probability of each of the task's classes, `[rows, classes]`, as calibrated on validation tasks."""
        scores = self.scores(columns).astype(np.float64)[:, list(self.support.places)]
        return softmax(scores / self.learned.certainty.temperature(len(self.support.y)))

    def targets(self, columns: Columns) -> np.ndarray:
        """Predicted targets, `[rows]`."""
        return self.support.original(self.scores(columns)[:, 0])

    def interval(self, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicted targets, and the ends of their 90 % predictive intervals, `[rows]` each."""
        found = self.targets(columns)
        return found, found - self.half_width, found + self.half_width

    def spread(self, columns: Columns) -> np.ndarray:
        """The standard deviation of a normal distribution with such intervals, `[rows]`."""
        return np.full(len(next(iter(columns.values()))), self.half_width / NORMAL)

    def scores(self, columns: Columns) -> np.ndarray:
        """Outputs of the head, `[rows, outputs]`; rows in blocks, padded to powers of two."""
        return _scores(self.learned, self.support.outputs, self.adapted, self.learned.preparation.encode(columns))[0]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of classes, `[rows, classes]`."""
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True)


def adapt(
    learned: TrainedLearner, columns: Columns, target: np.ndarray, weight: np.ndarray | None = None
) -> AdaptedTask:
    """Adapt to one task.

    Args:
        learned: the learner.
        columns: features of the support rows.
        target: their labels as texts, or real targets, `[rows]`.
        weight: how much each row counts, `[rows]`.

    Raises:
        InnerloopError: if there is no row, only one class, a target is missing, or a weight is no number from 0.
    """
    return adapt_many(learned, [Support(columns, target, weight)])[0]


@programs.kept()
def adapt_many(learned: TrainedLearner, supports: Sequence[Support]) -> list[AdaptedTask]:
    """Adapt to many tasks, those of like sizes at once.

    Args:
        learned: the learner.
        supports: the support set of each.

    Raises:
        InnerloopError: as `adapt`.
    """
    folds = FOLDS if learned.regression else 0
    groups: dict[tuple[int, int], list[int]] = {}
    given, inputs, examples = [], [], []
    for i, support in enumerate(map(_weighed, supports)):
        targets = support_targets(learned, support.target, support.weight)
        rows = learned.preparation.encode(support.columns)
        padded, count = pad(rows, targets.y, padded_size(len(targets.y)))
        weight = np.zeros((1 + folds, len(padded.y)), np.float32)
        weight[:, :count] = 1.0 if support.weight is None else support.weight
        for fold in range(folds):  # one row cannot be left out
            weight[1 + fold, fold:count:folds] *= count == 1
        many = jax.tree.map(lambda leaf, n=1 + folds: np.broadcast_to(leaf, (n, *leaf.shape)), padded)
        given.append(targets)
        inputs.append(rows)
        examples.append(many._replace(weight=weight))
        groups.setdefault((len(padded.y), targets.outputs), []).append(i)
    found: dict[int, AdaptedTask] = {}
    for (_, outputs), members in groups.items():
        filled = members + members[:1] * (padded_size(len(members), 1) - len(members))
        stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(examples[i] for i in filled))
        adapted = jax.device_get(learner.adapt_tasks(learned.design, outputs, learned.meta, stacked))
        for place, i in enumerate(members):
            first = place * (1 + folds)
            own = jax.tree.map(lambda leaf, first=first: leaf[first : first + 1], adapted)
            error = None
            if folds and len(given[i].y) > 1:
                left_out = jax.tree.map(lambda leaf, first=first: leaf[first + 1 : first + 1 + folds], adapted)
                error = _error_left_out(learned, given[i], left_out, inputs[i])
            found[i] = AdaptedTask(learned, given[i], own, error)
    return [found[i] for i in range(len(supports))]


def _weighed(support: Support) -> Support:
    """Without rows that do not count: what a row of weight 0 says is as if it was not there."""
    if support.weight is None:
        return support
    weight, count = np.asarray(support.weight, np.float64), len(support.target)
    if weight.shape != (count,) or not np.isfinite(weight).all() or weight.min() < 0 or not weight.any():
        raise InnerloopError(
            f"sample_weight must hold a number from 0 on for each of the {count} rows, not all of them 0."
        )
    kept = weight > 0
    columns = {name: np.asarray(values)[kept] for name, values in support.columns.items()}
    return Support(columns, np.asarray(support.target)[kept], weight[kept])


def _error_left_out(learned: TrainedLearner, support: SupportTargets, left_out: Adapted, inputs: Inputs) -> float:
    """The mean squared error on support rows by the adaptations that left them out."""
    scores = _scores(learned, 1, left_out, inputs)[:, :, 0]
    rows = np.arange(len(support.y))
    return float(np.mean((scores[rows % FOLDS, rows] - support.y) ** 2))


@programs.kept()
def _scores(learned: TrainedLearner, outputs: int, adapted: Adapted, inputs: Inputs) -> np.ndarray:
    number, parts = len(inputs.numbers), []
    for start in range(0, max(number, 1), BLOCK):
        block = Inputs(*(array[start : start + BLOCK] for array in inputs))
        count = len(block.numbers)
        padded, _ = pad(block, np.zeros(count), padded_size(count, SMALLEST_BLOCK))
        scores = learner.outputs_of_members(learned.design, outputs, learned.meta, adapted, padded.x)
        parts.append(np.asarray(scores)[:, :count])
    return np.concatenate(parts, axis=1)


def support_targets(learned: TrainedLearner, target: np.ndarray, weight: np.ndarray | None = None) -> SupportTargets:
    """Targets of a support set as the learner reads them.

    Args:
        learned: the learner.
        target: labels as texts, or real targets, `[rows]`.
        weight: how much each row counts, `[rows]`.

    Raises:
        InnerloopError: if there is no row, only one class, or a target is missing.
    """
    if not len(target):
        raise InnerloopError("The support set holds no rows; give some labelled rows of the task.")
    if any(label is None for label in target.tolist()):
        row = target.tolist().index(None) + 1
        raise InnerloopError(f"The target of row {row} is missing; fill it, or leave the row out.")
    if learned.regression:
        values = np.asarray(target, np.float64)
        if not np.isfinite(values).all():
            raise InnerloopError(f"The target of row {int(np.argmin(np.isfinite(values))) + 1} is missing; fill it.")
        center, scale = learned.units
        if learned.design.targets == "support":  # in 64 bits, so that units and offsets of any size leave no trace
            center = float(np.average(values, weights=weight))
            spread = float(np.sqrt(np.average((values - center) ** 2, weights=weight)))
            scale = spread if spread > SMALLEST_SPREAD * (abs(center) + scale) else scale
        return SupportTargets((), (0,), 1, ((values - center) / scale).astype(np.float32), center, scale)
    texts = ["" if label is None else str(label) for label in target]
    if set(texts) <= {"0", "1"} and learned.labels == ("false", "true"):
        texts = ["true" if text == "1" else "false" for text in texts]
    labels = in_order(set(texts))
    if len(labels) < 2:
        raise InnerloopError(
            f"The support set has one class only ({texts[0]!r}); give rows of at least two, or there is nothing to "
            "tell apart."
        )
    new = [label for label in labels if label not in learned.labels]
    place = {label: learned.labels.index(label) if label in learned.labels else 0 for label in labels}
    place |= {label: len(learned.labels) + i for i, label in enumerate(new)}
    needed = max(place.values()) + 1
    outputs = len(learned.labels) if not new and learned.labels else padded_size(needed, 2)
    y = np.array([place[text] for text in texts], np.int32)
    return SupportTargets(labels, tuple(place[label] for label in labels), outputs, y)


def pad(inputs: Inputs, y: np.ndarray, size: int) -> tuple[Examples, int]:
    """Rows filled up to a size with rows that weigh nothing."""
    count = len(y)
    room = lambda leaf: np.concatenate([leaf, np.zeros((size - count, *leaf.shape[1:]), leaf.dtype)])  # noqa: E731
    weight: Any = (np.arange(size) < count).astype(np.float32)
    return Examples(Inputs(room(inputs.counts), room(inputs.numbers)), room(y), weight), count
