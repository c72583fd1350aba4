"""Models of scikit-learn, fitted on each support set alone."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from innerloop.extras import require
from innerloop.tabular.columns import in_order
from innerloop.tabular.features import Inputs
from innerloop.workloads.tabular.metrics import metrics_of

BASELINES = ("random forest", "nearest neighbours", "linear")


def available_baselines() -> tuple[str, ...]:
    """The baselines that can be fitted: all, if scikit-learn is installed."""
    return BASELINES if find_spec("sklearn") else ()


def baseline_scores(
    name: str, regression: bool, x: Inputs, target: np.ndarray, drawn: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, list[float]]:
    """The metrics of a model that is fitted on each support set alone, averaged over the draws."""
    features = np.concatenate([np.log1p(x.counts.astype(np.float32)), x.numbers], axis=1)
    results: dict[str, list[float]] = {}
    for seed, (support, query) in enumerate(drawn):
        model = baseline(name, regression, len(support), seed)
        labels = () if regression else in_order(set(target[support].tolist()))
        y = target[support] if regression else np.array([labels.index(each) for each in target[support]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a linear model that has not converged is still a baseline
            model.fit(features[support], y)
            scores = model.predict(features[query]) if regression else model.predict_proba(features[query])
        for metric, value in metrics_of(target[query], labels, np.asarray(scores, np.float64)).items():
            results.setdefault(metric, []).append(value)
    return {metric: [float(np.mean(values))] for metric, values in results.items()}


def baseline(name: str, regression: bool, rows: int, seed: int) -> Any:
    """A scikit-learn model of the name, untuned but for scaled features.

    Args:
        name: one of `BASELINES`.
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
