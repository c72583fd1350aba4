"""Whether a learner's intervals cover, and its probabilities hold, on tasks that it has not seen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from innerloop.runs.results import estimate
from innerloop.tabular.adaptation import softmax
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.calibration import seen_of
from innerloop.tabular.certainty import Seen
from innerloop.tabular.rows import Rows

BINS = 10


def trust(learned: TrainedLearner, rows: Rows, sizes: Sequence[int]) -> dict[str, Any] | None:
    """How far a learner's certainty can be trusted.

    Args:
        learned: the learner, calibrated.
        rows: the test tasks.
        sizes: of support sets.

    Returns:
        Of a regression `coverage`: by size the share of query rows within their 90 % interval, the half-width of its
        95 % interval over tasks, and the mean width in units of the targets' typical size. Of classes `reliability`:
        by size the expected calibration error, and the bins of the most probable class's probability, each with its
        mean, the share of right ones, and the number of rows. `None` without a task that is large enough.
    """
    tasks = seen_of(learned, rows, sizes)
    by_size: dict[int, list[list[Seen]]] = {}
    for items in tasks:
        for size in {item.size for item in items}:
            by_size.setdefault(size, []).append([item for item in items if item.size == size])
    if not by_size:
        return None
    if learned.regression:
        return {"coverage": {str(size): _coverage(learned, of_size) for size, of_size in sorted(by_size.items())}}
    return {"reliability": {str(size): _reliability(learned, of_size) for size, of_size in sorted(by_size.items())}}


def _coverage(learned: TrainedLearner, tasks: Sequence[Sequence[Seen]]) -> list[float]:
    shares, widths = [], []
    for items in tasks:
        within = []
        for item in items:
            half = learned.certainty.half_width(item.size, item.error)
            within.append(np.mean(np.abs(item.residual) <= half))
            widths.append(2 * half)
        shares.append(np.mean(within))
    mean, half_width = estimate(np.array(shares))
    return [float(mean), float(half_width), float(np.mean(widths))]


def _reliability(learned: TrainedLearner, tasks: Sequence[Sequence[Seen]]) -> dict[str, Any]:
    sure, right, weight = [], [], []
    for items in tasks:
        for item in items:
            chances = softmax(item.scores.astype(np.float64) / learned.certainty.temperature(item.size))
            sure.append(chances.max(axis=1))
            right.append(chances.argmax(axis=1) == item.label)
            weight.append(np.full(len(chances), 1 / (len(chances) * len(items))))
    chance, hit, count = (np.concatenate(parts) for parts in (sure, right, weight))
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for i in np.unique(place):
        here = place == i
        share = float(count[here].sum())
        mean, frequency = (float(np.sum(values[here] * count[here]) / share) for values in (chance, hit))
        bins.append([mean, frequency, int(here.sum())])
        error += share / float(count.sum()) * abs(mean - frequency)
    return {"error": error, "bins": bins}
