"""One model of all training rows together, whatever their task: gradient-boosted trees of scikit-learn as plain arrays.

It is what the learner starts from where trees see what a network does not. Training rows get predictions from trees
that did not see their task, as the rows of new tasks will.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require

TREES, LEAVES, SMALLEST_LEAF = 150, 31, 20
FOLDS = 4
ROWS_OF_ONE_THREAD = 50_000
"""Up to which more threads wait for each other longer than they work, above all where other programs run."""
PLACES = 2**14
"""Rows times trees that are followed at once."""


@dataclass(frozen=True)
class Trees:
    """Boosted trees: for each row and output the sum of the leaves that it reaches, above a constant.

    Attributes:
        outputs: scores for each row; 1 for a regression, otherwise one for each class.
        constant: what the sum starts from, `[outputs]`.
        roots: first node of each tree; the trees of the outputs take turns, `[trees]`.
        feature: that a node looks at; -1 for a leaf, `[nodes]`.
        threshold: rows with a larger value go to the right.
        left: next node, counted from all trees' first.
        right: the same for larger values.
        value: of a leaf.
    """

    outputs: int
    constant: tuple[float, ...]
    roots: tuple[int, ...]
    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, classes: int, *, seed: int = 0) -> "Trees":
        """Fit trees to rows.

        Args:
            x: features without gaps, `[rows, features]`.
            y: real targets, or classes from 0, `[rows]`.
            classes: how many there are; 1 for a regression.
            seed: of scikit-learn's randomness.

        Raises:
            InnerloopError: if scikit-learn is not installed.
        """
        ensemble = require("sklearn.ensemble", "tabular", "A pooled model")
        settings = {
            "max_iter": TREES if classes < 3 else max(TREES // classes, 20),
            "max_leaf_nodes": LEAVES,
            "min_samples_leaf": max(1, min(SMALLEST_LEAF, len(y) // 20)),
            "early_stopping": False,
            "random_state": seed,
        }
        if classes > 1 and len(np.unique(y)) < 2:
            return cls(classes, (0.0,) * classes, (), (), (), (), (), ())
        kind = ensemble.HistGradientBoostingRegressor if classes == 1 else ensemble.HistGradientBoostingClassifier
        limits = require("threadpoolctl", "tabular", "A pooled model")
        with limits.threadpool_limits(None if len(y) > ROWS_OF_ONE_THREAD else 1):
            return cls._from(kind(**settings).fit(x, y), classes)

    @classmethod
    def _from(cls, model: Any, classes: int) -> "Trees":
        present = [int(label) for label in model.classes_] if classes > 1 else [0]
        baseline = np.ravel(model._baseline_prediction)
        binary = classes > 1 and len(present) == 2
        constant = np.full(classes, 0.0 if binary or classes == 1 else float(np.min(baseline)) - 5.0)
        constant[present[-1:] if len(baseline) == 1 else present] = baseline
        parts: dict[str, list[Any]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
        roots, at = [], 0
        for stage in model._predictors:
            of_output = dict(zip(present[-1:] if len(stage) == 1 else present, stage, strict=True))
            for output in range(classes):
                roots.append(at if output in of_output else -1)
                if output not in of_output:
                    continue
                nodes = of_output[output].nodes
                leaf = nodes["is_leaf"].astype(bool)
                parts["feature"] += np.where(leaf, -1, nodes["feature_idx"]).tolist()
                parts["threshold"] += np.where(leaf, 0.0, nodes["num_threshold"]).tolist()
                parts["left"] += (np.where(leaf, 0, nodes["left"]) + at).tolist()
                parts["right"] += (np.where(leaf, 0, nodes["right"]) + at).tolist()
                parts["value"] += nodes["value"].tolist()
                at += len(nodes)
        return cls(classes, tuple(constant.tolist()), tuple(roots), *(tuple(values) for values in parts.values()))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predicted targets, or logits, `[rows, outputs]`.

        Args:
            x: features, `[rows, features]`.
        """
        roots, feature, threshold, following, value = self._arrays
        scores = np.tile(np.array(self.constant), (len(x), 1))
        if not len(roots):
            return scores
        block = max(1, PLACES // len(roots))
        for start in range(0, len(x), block):
            rows = np.asarray(x[start : start + block], np.float64)
            each = np.arange(len(rows))[:, None]
            at = np.tile(roots, (len(rows), 1))
            while True:
                smaller = rows[each, feature[at]] <= threshold[at]
                after = following[2 * at + smaller]
                if np.array_equal(after, at):
                    break
                at = after
            scores[start : start + block] += value[at].reshape(len(rows), -1, self.outputs).sum(axis=1)
        return scores

    def to_json(self) -> dict[str, Any]:
        """As plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Trees":
        """The inverse of `to_json`.

        Raises:
            InnerloopError: if it is no such description.
        """
        try:
            listed: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
            }
            return cls(**listed)
        except (TypeError, AttributeError) as error:
            raise InnerloopError(f"This is no pooled model of this version of innerloop ({error}).") from error

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, ...]:
        """Roots, features, thresholds, the nodes that follow (for larger values, for the others), and values.

        A leaf is followed by itself, so that rows may be led through all trees at once; a tree that is missing is one
        more leaf, of value 0.
        """
        nodes = np.arange(len(self.feature) + 1)
        leaf = np.append(np.array(self.feature, np.int64) < 0, True)
        right, left = (
            np.where(leaf, nodes, np.append(np.array(side, np.int64), 0)) for side in (self.right, self.left)
        )
        roots = np.array(self.roots, np.int64)
        return (
            np.where(roots < 0, nodes[-1], roots),
            np.where(leaf, 0, np.append(np.array(self.feature, np.int64), 0)),
            np.append(np.array(self.threshold, np.float64), 0.0),
            np.stack([right, left], axis=1).ravel(),
            np.append(np.array(self.value, np.float64), 0.0),
        )


def out_of_fold(
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    tasks: np.ndarray,
    folds: int = FOLDS,
    seed: int = 0,
) -> np.ndarray:
    """Predictions for each row by a model that was fitted on other tasks.

    Args:
        fit: `rows -> (rows -> predictions)`: fits on some rows, given by their indices, and predicts others.
        tasks: the task of each row.
        folds: groups of tasks, of which one at a time is left out.
        seed: of the groups.

    Returns:
        `[rows, ...]`.
    """
    names = np.unique(tasks)
    fold = np.random.default_rng(seed).permutation(len(names)) % min(folds, len(names))
    of_row = fold[np.searchsorted(names, tasks)]
    found: np.ndarray | None = None
    for i in range(int(fold.max()) + 1):
        left_out = np.flatnonzero(of_row == i)
        predicted = fit(np.flatnonzero(of_row != i))(left_out)
        if found is None:
            found = np.zeros((len(tasks), *predicted.shape[1:]))
        found[left_out] = predicted
    assert found is not None
    return found
