"""The models that a learner is held against, and their scores on the rows of a task."""

from collections.abc import Sequence

import numpy as np

from innerloop.tabular import rivals
from innerloop.tabular.features import Inputs, as_matrix
from innerloop.tabular.identity import in_order
from innerloop.tabular.plan import MOST_INPUTS_OF_TREES
from innerloop.tabular.prepare import Prepared, label_indices
from innerloop.tabular.rivals import Rival
from innerloop.workloads.tabular.metrics import metrics_of, spread_of


def rivals_of(data: Prepared) -> dict[str, Rival]:
    """What the learner is held against: models of a support set alone, and of all training rows together."""
    rows, planned = data.parts["train"], data.plan
    found = rivals.alone(rows.regression)
    if not (rows.regression or planned.labels) or sum(data.preparation.sizes) > MOST_INPUTS_OF_TREES:
        return found
    x = as_matrix(data.features_of_training())
    center, scale = data.units
    y = (rows.target - center) / scale if rows.regression else label_indices(rows, planned.labels)
    return found | rivals.pooled(rivals.Pool(x, y, rows.tasks, planned.labels), data.choices.seed)


def rival_scores(
    rival: Rival,
    pooled: int,
    units: tuple[float, float],
    x: Inputs,
    target: np.ndarray,
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, list[float]]:
    """The metrics of a rival, averaged over the draws of one task.

    Args:
        rival: the model.
        pooled: how many of the last numbers are what a pooled model predicts, which it does not see.
        units: in which it sees a regression's targets, as the learner does: what they are counted from, and their unit.
        x: rows of the task.
        target: of each.
        drawn: support and query rows.
    """
    center, scale = units
    features = as_matrix(x._replace(numbers=x.numbers[:, : x.numbers.shape[1] - pooled]))
    results: dict[str, list[float]] = {}
    spread = spread_of(target)
    for seed, (support, query) in enumerate(drawn):
        regression = target.dtype.kind == "f"
        labels = () if regression else in_order(set(target[support].tolist()))
        given = (target[support] - center) / scale if regression else target[support]
        scores = np.asarray(rival(features[support], given, features[query], seed), np.float64)
        scores = scores * scale + center if regression else scores
        for metric, value in metrics_of(target[query], labels, scores, spread).items():
            results.setdefault(metric, []).append(value)
    return {metric: [float(np.mean(values))] for metric, values in results.items()}
