"""What is measured of predictions."""

from collections.abc import Mapping, Sequence

import numpy as np

from innerloop.runs.results import estimate

LOWER_IS_BETTER = ("relative error",)
SHARE = 0.95
"""What part of the time a stated interval covers the mean; results without it are of an older version."""


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    r"""The area under the precision-recall curve, $\sum_i (R_i - R_{i-1}) P_i$ over thresholds, ties together.

    Args:
        positive: truth values, `[rows]`, at least one true.
        scores: larger for positives, `[rows]`.

    Example:
        >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.1])).__round__(4)
        0.8333
    """
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(positive[order]), scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def spread_of(target: np.ndarray) -> float:
    """The standard deviation of a task's targets, in which errors are given; 0 for classes."""
    return float(np.std(target)) if target.dtype.kind == "f" else 0.0


def metrics_of(target: np.ndarray, labels: Sequence[str], scores: np.ndarray, spread: float = 0.0) -> dict[str, float]:
    """What is measured of predictions.

    Args:
        target: labels as texts, or real targets, `[rows]`.
        labels: the classes; empty for regression.
        scores: logits or probabilities `[rows, classes]`, or predicted targets `[rows]`.
        spread: of a regression's targets over the whole task; 0 takes that of the rows at hand.

    Returns:
        Two classes: the gain in area under the precision-recall curve over random scores (`delta-AUPRC`, for the last
        class) and the accuracy. More: the accuracy. Regression: the root mean squared error in units of the targets'
        standard deviation (1 is the best constant), and the correlation.
    """
    if not labels:
        spread = spread or float(np.std(target)) or 1.0
        error = float(np.sqrt(np.mean((scores - target) ** 2))) / spread
        constant = np.std(scores) == 0 or np.std(target) == 0
        return {"relative error": error, "correlation": 0.0 if constant else float(np.corrcoef(scores, target)[0, 1])}
    truth = np.array([labels.index(label) if label in labels else -1 for label in target.tolist()])
    accuracy = {"accuracy": float(np.mean(np.argmax(scores, axis=1) == truth))}
    if len(labels) > 2:
        return accuracy
    gain = average_precision(truth == 1, scores[:, 1] - scores[:, 0]) - float(np.mean(truth == 1))
    return {"delta-AUPRC": gain, **accuracy}


def score_name(method: str, metric: str, size: int | str) -> str:
    """What the scores of the single tasks are called in `scores.safetensors`: arrays `[tasks, steps + 1]`."""
    return f"{method}/{metric}/{size}"


def summary(metrics: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, tuple[float, float]]:
    """Mean over tasks and the half-width of its 95 % interval, after the last inner step."""
    found = {}
    for name, scores in metrics.items():
        mean, half_width = estimate(np.asarray(scores).reshape(len(scores), -1)[:, -1])
        found[name] = float(mean), float(half_width)
    return found
