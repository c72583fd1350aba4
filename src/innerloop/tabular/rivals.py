"""What a data scientist would write in ten lines, to stand beside a meta-learned learner on the same rows.

*Alone* are models that are fitted on the support rows of one task. *Pooled* are models of all training rows together,
as they are or moved towards a task by what they leave of its support rows. A learner of tasks is worth its trouble
where it beats both.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from innerloop.extras import require
from innerloop.tabular.identity import in_order
from innerloop.tabular.pooled import Trees, out_of_fold

Rival = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""`(support features, support targets, query features, seed) -> predictions`: targets `[rows]`, or scores
`[rows, classes]` of the classes that the support set has, in order."""

ALONE = ("random forest", "nearest neighbours", "linear")
PENALTIES = tuple(10.0**power for power in range(-2, 5))
MOST_ROWS, MOST_MIXED_ROWS = 100_000, 20_000
"""Training rows that pooled models, and mixed models, are fitted to."""
MOST_SLOPES = 6
"""Features up to which a mixed model has slopes of each task, beside its intercept."""
TRIALS = 60
"""Training tasks on which a penalty is chosen."""


@dataclass(frozen=True)
class Pool:
    """Training rows of all tasks together.

    Attributes:
        x: features without gaps, `[rows, features]`.
        y: real targets, or classes as indices into `labels`, `[rows]`.
        tasks: the task of each row.
        labels: the classes that all tasks share; empty for a regression.
    """

    x: np.ndarray
    y: np.ndarray
    tasks: np.ndarray
    labels: tuple[str, ...] = ()


def alone(regression: bool) -> dict[str, Rival]:
    """Models of the support rows alone; without scikit-learn there are none but the constant."""
    if regression:
        constant: Rival = lambda x, y, query, seed: np.full(len(query), float(np.mean(y)))  # noqa: E731
    else:
        constant = lambda x, y, query, seed: np.tile(_shares(y), (len(query), 1))  # noqa: E731
    found = {"constant (of the support rows)": constant}
    if find_spec("sklearn"):
        found |= {name: _fitted_alone(name, regression) for name in ALONE}
    return found


def pooled(pool: Pool, seed: int = 0) -> dict[str, Rival]:
    """Models of all training rows together; without scikit-learn there is none.

    Args:
        pool: the training rows.
        seed: of subsets and of the models' randomness.
    """
    if not find_spec("sklearn"):
        return {}
    chosen = np.random.default_rng(seed).permutation(len(pool.y))[:MOST_ROWS]
    pool = Pool(pool.x[chosen], pool.y[chosen], pool.tasks[chosen], pool.labels)
    limits = require("threadpoolctl", "tabular", "A pooled model")
    with limits.threadpool_limits(1):  # small models, whose threads wait for each other longer than they work
        return _pooled_classes(pool, seed) if pool.labels else _pooled_targets(pool, seed)


def _pooled_targets(pool: Pool, seed: int) -> dict[str, Rival]:
    mean = float(pool.y.mean())
    trees = Trees.fit(pool.x, pool.y, 1, seed=seed)

    def fit(chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        some = Trees.fit(pool.x[chosen], pool.y[chosen], 1, seed=seed)
        return lambda rows: some.predict(pool.x[rows])[:, 0]

    between, within = variances(pool.y - out_of_fold(fit, pool.tasks, seed=seed), pool.tasks)

    def moved(x: np.ndarray, y: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
        left = y - trees.predict(x)[:, 0]
        return trees.predict(query)[:, 0] + left.mean() * len(y) * between / (len(y) * between + within)

    found: dict[str, Rival] = {
        "constant (of training)": lambda x, y, query, seed: np.full(len(query), mean),
        "pooled trees": lambda x, y, query, seed: trees.predict(query)[:, 0],
        "pooled trees + intercept": moved,
        "ridge shrunk to the global ridge": _shrunk_ridge(pool, seed),
    }
    mixed = _mixed(pool, seed) if find_spec("statsmodels") else None
    return found if mixed is None else {**found, "mixed model": mixed}


def _pooled_classes(pool: Pool, seed: int) -> dict[str, Rival]:
    trees = Trees.fit(pool.x, pool.y, len(pool.labels), seed=seed)
    linear = require("sklearn.linear_model", "tabular", "A rival")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = linear.LogisticRegression(max_iter=200).fit(pool.x, pool.y)
    present = [pool.labels[int(i)] for i in model.classes_]

    def of_task(scores: np.ndarray, labels: list[str], y: np.ndarray) -> np.ndarray:
        here = in_order(set(y.tolist()))
        return np.stack([scores[:, labels.index(c)] if c in labels else np.full(len(scores), -9.0) for c in here], 1)

    def decision(x: np.ndarray) -> np.ndarray:
        scores = model.decision_function(x)
        return scores if scores.ndim > 1 else np.stack([-scores / 2, scores / 2], axis=1)

    def moved(x: np.ndarray, y: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
        labels = list(pool.labels)
        before, there = (of_task(trees.predict(rows), labels, y) for rows in (x, query))
        return there + _intercepts(before, y)

    def shrunk(x: np.ndarray, y: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
        before, there = (of_task(decision(rows), present, y) for rows in (x, query))
        design, asked = (np.concatenate([rows, np.ones((len(rows), 1))], axis=1) for rows in (x, query))
        return there + asked @ _logistic(design, _one_hot(y), before)

    return {
        "pooled trees": lambda x, y, query, seed: of_task(trees.predict(query), list(pool.labels), y),
        "pooled trees + intercept": moved,
        "logistic shrunk to the global one": shrunk,
    }


def variances(left: np.ndarray, tasks: np.ndarray) -> tuple[float, float]:
    r"""Variance between and within tasks of what a pooled model leaves, by the method of moments.

    Args:
        left: residuals, `[rows]`.
        tasks: the task of each row.

    Example:
        >>> import numpy as np
        >>> random, tasks = np.random.default_rng(0), np.repeat(np.arange(500), 10)
        >>> left = 2 * random.normal(size=500)[tasks] + random.normal(size=5000)
        >>> [round(variance) for variance in variances(left, tasks)]
        [4, 1]
    """
    _, place, counts = np.unique(tasks, return_inverse=True, return_counts=True)
    means = np.bincount(place, left) / counts
    within = float(np.sum((left - means[place]) ** 2) / max(len(left) - len(counts), 1))
    between = float(np.mean(means**2 - within / counts))
    return max(between, 0.0), max(within, 1e-300)


def _shrunk_ridge(pool: Pool, seed: int) -> Rival:
    """Ridge regression of what a global ridge leaves, with the penalty that suits so many rows of training tasks."""
    x = _with_one(pool.x)
    common = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ pool.y)

    def with_penalty(penalty: float) -> Rival:
        def predict(x: np.ndarray, y: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
            design, asked = _with_one(x), _with_one(query)
            dual = np.linalg.solve(design @ design.T + penalty * np.eye(len(y)), y - design @ common)
            return asked @ (common + design.T @ dual)

        return predict

    @cache
    def suited(size: int) -> Rival:
        random = np.random.default_rng(seed)
        errors = np.zeros(len(PENALTIES))
        for task in random.permutation(np.unique(pool.tasks))[:TRIALS]:
            rows = random.permutation(np.flatnonzero(pool.tasks == task))
            known, asked = rows[:size], rows[size:]
            if len(asked):
                spread = float(np.var(pool.y[rows])) or 1.0
                for i, penalty in enumerate(PENALTIES):
                    predicted = with_penalty(penalty)(pool.x[known], pool.y[known], pool.x[asked], seed)
                    errors[i] += np.mean((predicted - pool.y[asked]) ** 2) / spread
        return with_penalty(PENALTIES[int(np.argmin(errors))])

    return lambda x, y, query, seed: suited(len(y))(x, y, query, seed)


def _mixed(pool: Pool, seed: int) -> Rival | None:
    """A linear mixed model of statsmodels; a new task gets its best linear unbiased prediction."""
    models = require("statsmodels.regression.mixed_linear_model", "tabular", "A mixed model")
    kept = np.random.default_rng(seed).permutation(len(pool.y))[:MOST_MIXED_ROWS]
    varies = np.flatnonzero(pool.x[kept].std(axis=0) > 0)
    if len(varies) > 1:
        _, independent = np.unique(np.round(np.corrcoef(pool.x[kept][:, varies].T), 9), axis=0, return_index=True)
        varies = varies[np.sort(independent)]
    used = varies
    slopes = used if len(used) <= MOST_SLOPES else used[:0]
    size = float(np.std(pool.y)) or 1.0
    x, random_part = (_with_one(pool.x[kept][:, columns].astype(np.float64)) for columns in (used, slopes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = models.MixedLM(pool.y[kept] / size, x, pool.tasks[kept], exog_re=random_part).fit(
                method="lbfgs", maxiter=100
            )
        except (np.linalg.LinAlgError, ValueError):  # features that depend on each other
            return None
    fixed, covariance, noise = np.asarray(found.fe_params), np.asarray(found.cov_re), float(found.scale)

    def predict(x: np.ndarray, y: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
        design, own, asked, of_asked = (
            _with_one(rows[:, columns]) for rows in (x, query) for columns in (used, slopes)
        )
        total = own @ covariance @ own.T + noise * np.eye(len(y))
        effects = covariance @ own.T @ np.linalg.solve(total, y / size - design @ fixed)
        return (asked @ fixed + of_asked @ effects) * size

    return predict


def _intercepts(before: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A shift of each class's score with a normal prior of variance 1."""
    return _logistic(np.ones((len(y), 1)), _one_hot(y), before)[0]


def _logistic(design: np.ndarray, targets: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Coefficients `[features, classes]` with a normal prior of variance 1, on top of given scores."""
    optimize = require("scipy.optimize", "tabular", "A rival")
    shape = (design.shape[1], targets.shape[1])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = before + design @ flat.reshape(shape)
        scores = scores - scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        gradient = design.T @ (np.exp(logs) - targets) + flat.reshape(shape)
        return float(-np.sum(targets * logs) + 0.5 * flat @ flat), gradient.ravel()

    return optimize.minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)


def _fitted_alone(name: str, regression: bool) -> Rival:
    def predict(x: np.ndarray, y: np.ndarray, query: np.ndarray, seed: int) -> np.ndarray:
        model = baseline(name, regression, len(y), seed)
        labels = () if regression else in_order(set(y.tolist()))
        given = y if regression else np.array([labels.index(label) for label in y])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a linear model that has not converged is still a baseline
            model.fit(x, given)
            return model.predict(query) if regression else model.predict_proba(query)

    return predict


def baseline(name: str, regression: bool, rows: int, seed: int) -> Any:
    """A scikit-learn model of the name, untuned but for scaled features.

    Args:
        name: one of `ALONE`.
        regression: whether targets are real.
        rows: of the support set.
        seed: of the model's randomness.
    """
    if name == "random forest":
        ensemble = require("sklearn.ensemble", "tabular", "A baseline")
        kind = ensemble.RandomForestRegressor if regression else ensemble.RandomForestClassifier
        return kind(n_estimators=100, random_state=seed)
    if name == "nearest neighbours":
        neighbours = require("sklearn.neighbors", "tabular", "A baseline")
        kind = neighbours.KNeighborsRegressor if regression else neighbours.KNeighborsClassifier
        return kind(n_neighbors=max(1, min(5, rows // 2)))
    linear = require("sklearn.linear_model", "tabular", "A baseline")
    return linear.Ridge() if regression else linear.LogisticRegression(max_iter=1000)


def kind_of(name: str) -> str:
    """Whether a rival is `constant`, `pooled` or `alone`."""
    if name.startswith("constant"):
        return "constant"
    return "pooled" if name.startswith(("pooled", "ridge shrunk", "logistic shrunk", "mixed")) else "alone"


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def _shares(y: np.ndarray) -> np.ndarray:
    return _one_hot(y).mean(axis=0)


def _one_hot(y: np.ndarray) -> np.ndarray:
    labels = in_order(set(y.tolist()))
    return (y[:, None] == np.array(labels, object)[None]).astype(np.float64)
