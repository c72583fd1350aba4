"""How support sets are drawn from a task, on which a learner is judged."""

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]
"""`(target, size, seed) -> (support, query)`, indices of rows of a task."""


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


def enough(target: np.ndarray, size: int) -> bool:
    """Whether a task has rows for so large a support set and two more, and one for each class."""
    return len(target) >= size + 2 and (target.dtype.kind == "f" or size >= len(set(target.tolist())))


def judgeable(target: np.ndarray) -> bool:
    """Whether query rows vary, so that predictions of them can be right or wrong."""
    return len(target) >= 2 and len(set(target.tolist())) >= 2
