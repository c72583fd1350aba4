"""Models to compare with: trees as arrays, predictions for unseen tasks, shrinkage by closed forms, and the verdict."""

import numpy as np
import pytest

from innerloop.tabular import rivals
from innerloop.tabular.pooled import Trees, out_of_fold
from innerloop.tabular.rivals import Pool
from innerloop.workloads.tabular.verdict import UNTRAINED, verdict

ensemble = pytest.importorskip("sklearn.ensemble")
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_trees_as_arrays_predict_what_scikit_learn_predicts(classes, monkeypatch):
    monkeypatch.setattr("innerloop.tabular.pooled.TREES", 20 * max(classes, 1))
    x = RANDOM.normal(size=(300, 4)).astype(np.float32)
    score = x[:, 0] * x[:, 1]
    y = score if classes == 1 else np.digitize(score, [0.0, 0.5][: classes - 1])
    trees = Trees.fit(x, y, classes)
    assert Trees.from_json(trees.to_json()) == trees
    kind = ensemble.HistGradientBoostingRegressor if classes == 1 else ensemble.HistGradientBoostingClassifier
    settings = {"max_iter": 20 * (1 if classes > 2 else classes), "min_samples_leaf": 15, "early_stopping": False}
    model = kind(random_state=0, **settings).fit(x, y)
    found = trees.predict(x)
    if classes == 1:
        np.testing.assert_allclose(found[:, 0], model.predict(x), atol=1e-9)
    else:
        chances = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(chances, model.predict_proba(x), atol=1e-9)


def test_rows_are_predicted_by_models_that_did_not_see_their_task():
    tasks = np.repeat(np.arange(7), 3)
    seen = out_of_fold(lambda rows: lambda others: np.isin(tasks[others], tasks[rows]).astype(float), tasks)
    assert not seen.any()


def world(tasks=80, each=20, intercepts=1.0):
    x = RANDOM.normal(size=(tasks * each, 3))
    owners = np.repeat(np.arange(tasks), each)
    level = intercepts * RANDOM.normal(size=tasks)
    return Pool(x, x @ [1.0, -1.0, 0.5] + level[owners] + 0.3 * RANDOM.normal(size=len(x)), owners)


def error(rival, pool, size):
    errors = []
    for task in np.unique(pool.tasks):
        rows = np.flatnonzero(pool.tasks == task)
        found = rival(pool.x[rows[:size]], pool.y[rows[:size]], pool.x[rows[size:]], 0)
        errors.append(np.mean((found - pool.y[rows[size:]]) ** 2))
    return float(np.sqrt(np.mean(errors)))


def test_an_intercept_for_each_task_mends_a_pooled_model_where_intercepts_differ(monkeypatch):
    monkeypatch.setattr("innerloop.tabular.pooled.TREES", 40)
    found, new = rivals.pooled(world()), world(20)
    errors = {name: error(rival, new, 8) for name, rival in found.items()}
    assert errors["pooled trees + intercept"] < 0.7 * errors["pooled trees"] < errors["constant (of training)"]
    assert errors["ridge shrunk to the global ridge"] < 0.6
    if "mixed model" in errors:
        assert errors["mixed model"] < 0.4
    assert {rivals.kind_of(name) for name in found} == {"pooled", "constant"}
    assert {rivals.kind_of(name) for name in rivals.alone(True)} == {"alone", "constant"}


@pytest.mark.parametrize("kind", ["one feature", "none that varies", "twice the same", "one row a task", "constant"])
def test_every_rival_takes_any_table(kind, monkeypatch):
    monkeypatch.setattr("innerloop.tabular.pooled.TREES", 5)
    pool = world(12)
    x = {"one feature": pool.x[:, :1], "none that varies": np.zeros((240, 2)), "twice the same": pool.x[:, [0, 0]]}
    y = np.ones(240) if kind == "constant" else pool.y
    pool = Pool(x.get(kind, pool.x), y, np.arange(240) if kind == "one row a task" else pool.tasks)
    for name, rival in {**rivals.pooled(pool), **rivals.alone(True)}.items():
        assert np.isfinite(rival(pool.x[:5], pool.y[:5], pool.x[5:9], 0)).all(), name


def test_classes_are_predicted_in_the_order_of_the_support_set(monkeypatch):
    monkeypatch.setattr("innerloop.tabular.pooled.TREES", 10)
    x = RANDOM.normal(size=(400, 3))
    y = (x[:, 0] > 0).astype(int)
    pool = Pool(x, y, np.repeat(np.arange(20), 20), ("no", "yes"))
    texts = np.array(["no", "yes"], object)[y]
    for name, rival in {**rivals.pooled(pool), **rivals.alone(False)}.items():
        scores = rival(x[:30], texts[:30], x[30:60], 0)
        assert scores.shape == (30, 2)
        if not name.startswith("constant"):
            assert np.mean(scores.argmax(axis=1) == y[30:60]) > 0.7, name


NAMES = {"trees": "pooled trees", "mixed": "mixed model", "untrained": UNTRAINED, "mean": "constant (of training)"}


def found(**gains):
    """An evaluation in which the learner's error is 0.5, and each method's is larger by its gain, at 5 and 20 rows."""
    rows = [{"method": "innerloop", "size": size, "metrics": {"relative error": (0.5, 0.01)}} for size in (5, 20)]
    differences = []
    for name, values in gains.items():
        for size, gain in zip((5, 20), values, strict=True):
            row = {"method": NAMES.get(name, name), "size": size}
            rows.append({**row, "metrics": {"relative error": (0.5 + gain, 0.01)}})
            differences.append({**row, "metrics": {"relative error": (-gain, 0.02)}})
    return {"rows": rows, "differences": differences}


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ({"trees": (0.2, 0.2), "mixed": (0.1, 0.1), "linear": (0.3, 0.1)}, "helps: it beats every other model from 5"),
        ({"trees": (0.01, 0.2), "mixed": (0.0, 0.1), "linear": (0.3, 0.1)}, "helps from 20 rows on"),
        ({"trees": (0.2, 0.2), "mixed": (0.1, 0.1), "linear": (0.3, 0.0)}, "helps up to 5 rows"),
        (
            {"trees": (0.2, 0.2), "mixed": (0.0, -0.1), "linear": (0.3, 0.2)},
            "pooled model does as well (mixed",
        ),
        ({"trees": (0.2, 0.2), "mixed": (-0.2, -0.1), "linear": (0.3, 0.2)}, "pooled model does better (mixed"),
        ({"trees": (0.2, 0.2), "mixed": (-0.1, -0.1), "linear": (-0.3, -0.2)}, "alone does better (linear"),
        ({"trees": (0.5, 0.5), "mean": (0.5, 0.5), "linear": (0.0, 0.0)}, "The tasks share nothing"),
        ({"trees": (0.2, 0.2), "mean": (0.5, 0.5), "linear": (0.0, 0.0)}, "A model of each task alone does as well"),
        ({"trees": (0.2, 0.2), "linear": (0.3, 0.1), "untrained": (-0.1, 0.0)}, "negative transfer"),
        ({}, ""),
    ],
)
def test_the_verdict_is_one_sentence(gains, said):
    assert said in verdict(found(**gains))
    assert bool(said) == bool(verdict(found(**gains)))
