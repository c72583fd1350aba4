"""What is measured of predictions, and how support sets are drawn."""

from collections.abc import Callable, Sequence

import numpy as np

Draw = Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]
"""`(target, size, seed) -> (support, query)`, indices of rows of a task."""
LOWER_IS_BETTER = ("relative error",)


def stratified(target: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A support set with the classes in proportion (one row of each at least), and the other rows.

    Args:
        target: labels as texts, or real targets, `[rows]`.
        size: rows of the support set.
        seed: of the draw.
    """
    random = np.random.default_rng((seed, size, len(target)))
    if target.dtype.kind == "f":
        order = random.permutation(len(target))
        return order[:size], order[size:]
    labels, y, counts = np.unique(target.astype(str), return_inverse=True, return_counts=True)
    exact = counts / len(target) * size
    share = np.maximum(np.floor(exact), 1).astype(int)
    while share.sum() > max(size, len(labels)):
        share[np.argmax(np.where(share > 1, share - exact, -np.inf))] -= 1
    while share.sum() < size:
        share[np.argmax(np.where(share < counts, exact - share, -np.inf))] += 1
    parts = [random.permutation(np.flatnonzero(y == c)) for c in range(len(labels))]
    support = np.concatenate([part[:n] for part, n in zip(parts, share, strict=True)])
    query = np.concatenate([part[n:] for part, n in zip(parts, share, strict=True)])
    return random.permutation(support), query


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


def enough(target: np.ndarray, size: int) -> bool:
    """Whether a task has rows for so large a support set and two more, and one for each class."""
    return len(target) >= size + 2 and (target.dtype.kind == "f" or size >= len(set(target.tolist())))


def judgeable(target: np.ndarray) -> bool:
    """Whether query rows vary, so that predictions of them can be right or wrong."""
    return len(target) >= 2 and len(set(target.tolist())) >= 2
