"""The estimators among scikit-learn's: its own checks, its tools, and a learner that was trained on other tasks."""

import jax
import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from innerloop import FewShotClassifier, FewShotRegressor, InnerloopError, TabularMetaLearner
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.columns import columns_of, infer_kind, named_columns
from innerloop.tabular.design import Design
from innerloop.tabular.features import Feature, Preparation
from innerloop.tabular.few_shot import _loaded
from innerloop.tabular.learner import initial
from innerloop.tabular.rows import rows_of_tasks

DIRECTION = np.array([1.0, -1.0, 0.5, 0.0])


def task(random, rows=30):
    """A linear task: one hidden direction, with a sign and an offset of each task's own."""
    x = random.normal(size=(rows, 4))
    return x, 100 + random.choice([-1, 1]) * 20 * (x @ DIRECTION)


@pytest.fixture(scope="module")
def regression():
    random = np.random.default_rng(0)
    return TabularMetaLearner(iterations=200, supports=(8,), preset="fast").fit([task(random) for _ in range(20)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [FewShotClassifier(), FewShotRegressor()])
def test_scikit_learns_own_checks(estimator):
    # It asks for the same numbers to 1e-7, and the learner computes in 32 bits; see the next test.
    rounding = {"check_sample_weight_equivalence_on_dense_data": "computed in 32 bits"}
    found = check_estimator(estimator, on_fail=None, expected_failed_checks=rounding)
    assert [check for check in found if check["status"] not in ("passed", "skipped", "xfail")] == []


@pytest.mark.parametrize("estimator", [FewShotClassifier(), FewShotRegressor()])
def test_a_weight_of_two_is_a_row_that_occurs_twice(estimator):
    random = np.random.default_rng(0)
    x, y, weight = random.normal(size=(20, 3)), np.arange(20) % 3, random.integers(0, 4, 20)
    weighted = clone(estimator).fit(x, y, sample_weight=weight)
    repeated = clone(estimator).fit(np.repeat(x, weight, axis=0), np.repeat(y, weight))
    method = "predict_proba" if isinstance(estimator, FewShotClassifier) else "predict"
    np.testing.assert_allclose(getattr(weighted, method)(x), getattr(repeated, method)(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_trained_learner_serves_as_the_start_of_an_estimator(regression, tmp_path):
    random = np.random.default_rng(5)
    x, y = task(random, 60)
    warm = FewShotRegressor(pretrained=regression).fit(x[:6], y[:6])
    assert warm.score(x[6:], y[6:]) > FewShotRegressor().fit(x[:6], y[:6]).score(x[6:], y[6:])
    adapted = regression.adapt(x[:6], y[:6])
    np.testing.assert_allclose(adapted.predict(x[6:]), warm.predict(x[6:]), rtol=1e-5)
    others = [task(random, 60) for _ in range(20)]
    covered = []
    for (features, target), of_task in zip(
        others, regression.adapt_many([(a[:6], b[:6]) for a, b in others]), strict=True
    ):
        low, high = of_task.predict_interval(features[6:])
        covered.append(np.mean((low < target[6:]) & (target[6:] < high)))
    assert 0.7 < np.mean(covered) < 0.99  # two tasks were held out to calibrate on
    mean, deviation = warm.predict(x[6:], return_std=True)
    np.testing.assert_allclose(deviation, adapted.predict_spread(x[6:]), rtol=1e-5)
    many = regression.adapt_many([(x[:6], y[:6]), (x[6:12], y[6:12], np.ones(6))])
    np.testing.assert_allclose(many[0].predict(x[6:]), mean, rtol=1e-5)
    assert (
        repr(clone(regression))
        == repr(regression)
        == "TabularMetaLearner(preset='fast', iterations=200, supports=(8,))"
    )
    regression.save(tmp_path)
    loaded = FewShotRegressor(pretrained=str(tmp_path)).fit(x[:6], y[:6])
    np.testing.assert_array_equal(loaded.predict(x[6:]), warm.predict(x[6:]))
    again = clone(FewShotRegressor(pretrained=str(tmp_path)))
    assert not hasattr(again, "n_features_in_")
    read = _loaded.cache_info().misses
    np.testing.assert_array_equal(again.fit(x[:6], y[:6]).predict(x[6:]), warm.predict(x[6:]))
    assert _loaded.cache_info().misses == read
    regression.save(tmp_path)
    again.fit(x[:6], y[:6])
    assert _loaded.cache_info().misses == read + 1
    copied = clone(make_pipeline(FewShotRegressor(pretrained=regression)))  # which is trained, and so remains
    np.testing.assert_array_equal(copied.fit(x[:6], y[:6]).predict(x[6:]), warm.predict(x[6:]))
    with pytest.raises(InnerloopError, match="needs one of classification"):
        FewShotClassifier(pretrained=regression).fit(x[:6], y[:6] > 100)
    with pytest.raises(InnerloopError, match=r"X has the shape \[6, 2\]; this learner reads 4 features"):
        FewShotRegressor(pretrained=regression).fit(x[:6, :2], y[:6])
    with pytest.raises(InnerloopError, match="has no probabilities"):
        adapted.predict_proba(x)


def test_it_works_with_pipelines_cross_validation_and_clone():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 4))
    y = np.where(x @ DIRECTION > 0, "up", "down")
    x[0, 0] = np.nan
    pipeline = make_pipeline(StandardScaler(), FewShotClassifier())
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.8
    copied = clone(pipeline)
    assert not hasattr(copied[-1], "classes_")
    chances = copied.fit(x, y).predict_proba(x)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_array_equal(copied.classes_[chances.argmax(axis=1)], copied.predict(x))


def test_labels_keep_their_type_and_order():
    x = np.array([[0.0], [0.1], [1.0], [1.1], [2.0], [2.1]])
    for labels in ([10, 10, 9, 9, 2, 2], ["b", "b", "a", "a", "c", "c"], [True, True, False, False, True, True]):
        fitted = FewShotClassifier().fit(x, labels)
        assert fitted.classes_.tolist() == sorted(set(labels))
        assert fitted.predict(x).tolist() == labels


def test_what_is_predicted_is_inferred_as_the_program_infers_it():
    """Whole numbers are classes up to 20 different values, and a regression beyond, for both, with the same reason."""
    random = np.random.default_rng(0)
    for most, kind in ((20, "classification"), (21, "regression")):
        tasks = [(random.normal(size=(60, 2)), np.arange(60) % most) for _ in range(6)]
        rows, reason = rows_of_tasks(tasks)
        assert rows.regression == (kind == "regression")
        assert reason == infer_kind(np.concatenate([y for _, y in tasks]), "y")[1]
        assert reason.startswith(f"{kind}: y has {most} different values")
    assert rows_of_tasks(tasks, "classification")[0].regression is False
    assert rows_of_tasks([(x, y.astype(str)) for x, y in tasks])[0].regression is False
    with pytest.raises(InnerloopError, match="did you mean 'regression'"):
        rows_of_tasks(tasks, "regresion")
    with pytest.raises(InnerloopError, match="holds 'a'"):
        rows_of_tasks([(np.ones((2, 1)), ["a", "b"])], "regression")


def test_data_frames_matrices_and_gaps_are_read_alike():
    class Frame(dict):
        columns = property(lambda self: list(self))

    frame = Frame(
        size=np.array([1.0, 2.0]), colour=np.array(["red", np.nan], object), count=np.array([1, None], object)
    )
    columns = named_columns(frame)
    assert columns["colour"].tolist() == ["red", None]
    np.testing.assert_array_equal(columns["count"], [1.0, np.nan])
    features = [Feature("size", "numbers", 1), Feature("colour", "categories", 1)]
    assert set(columns_of(frame, features)) == {"size", "colour"}
    with pytest.raises(InnerloopError, match="X lacks 1 of the 2 features of the learner: colour; for 'colour', did"):
        columns_of(Frame(size=frame["size"], color=frame["colour"]), features)
    with pytest.raises(InnerloopError, match="'size' of X must hold a number in each row"):
        columns_of(Frame(size=np.array(["a", "b"]), colour=frame["colour"]), features)


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(InnerloopError, match="it must be a TabularMetaLearner"):
        FewShotRegressor(pretrained=3).fit(np.ones((4, 2)), np.arange(4.0))
    with pytest.raises(InnerloopError, match="preset is 'bets'"):
        TabularMetaLearner(preset="bets").fit([(np.eye(8), np.arange(8) % 2)] * 6)
    with pytest.raises(InnerloopError, match="There are no tasks"):
        TabularMetaLearner().fit([])
    with pytest.raises(InnerloopError, match="is not trained"):
        TabularMetaLearner().adapt(np.ones((2, 2)), [0, 1])
    with pytest.raises(InnerloopError, match="all tasks need the features of the first"):
        TabularMetaLearner().fit([(np.ones((4, 2)), np.arange(4.0)), (np.ones((4, 3)), np.arange(4.0))])
    with pytest.raises(InnerloopError, match="holds no model"):
        TabularMetaLearner.load("nowhere")


@pytest.mark.slow
def test_training_may_start_from_given_parameters(regression):
    random = np.random.default_rng(1)
    tasks = [task(random) for _ in range(12)]
    weights = regression.trained().meta.params["encoder"]
    arrays = {f"{layer}/{name}": np.asarray(leaf) for layer, leaves in weights.items() for name, leaf in leaves.items()}
    warm = TabularMetaLearner(iterations=1, supports=(8,), preset="fast", initial=arrays).fit(tasks)
    cold = TabularMetaLearner(iterations=1, supports=(8,), preset="fast").fit(tasks)
    distance = lambda learner: float(  # noqa: E731
        np.abs(np.asarray(learner.trained().meta.params["encoder"]["dense1"]["kernel"]) - arrays["dense1/kernel"]).max()
    )
    assert distance(warm) < 0.01 < distance(cold)
    with pytest.raises(InnerloopError, match="initial differs in dense1/bias, dense1/kernel, "):
        TabularMetaLearner(iterations=1, initial={}).fit(tasks)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_columns_are_matched_by_name_whatever_the_data_frame(library):
    frames = pytest.importorskip(library)
    make = frames.table if library == "pyarrow" else frames.DataFrame
    random = np.random.default_rng(0)

    def framed(x, order="abcd"):
        return make({name: x[:, "abcd".index(name)] for name in order})

    x, y = task(random, 40)
    design = Design("regression", widths=(8,), start="shrunk", steps=0)
    preparation = Preparation.fit(named_columns(framed(x)))
    meta = initial(design, preparation.sizes, 1, jax.random.key(0))
    learner = TabularMetaLearner.from_learned(TrainedLearner(design, preparation, meta))
    x, y = task(random, 12)
    expected = learner.adapt(framed(x), y).predict(framed(x))
    np.testing.assert_allclose(learner.adapt(framed(x, "dbca"), y).predict(framed(x, "cadb")), expected, rtol=1e-5)
    if library != "pyarrow":  # which scikit-learn does not take for a data frame
        few = FewShotRegressor(pretrained=learner).fit(framed(x, "dbca"), y)
        np.testing.assert_allclose(few.predict(framed(x, "dbca")), expected, rtol=1e-5)
        other = make({name: x[:, i] for i, name in enumerate("abce")})
        with pytest.raises(InnerloopError, match="X lacks 1 of the 4 features of the learner: d"):
            FewShotRegressor(pretrained=learner).fit(other, y)


def test_dates_and_texts_of_a_data_frame_are_read():
    dates = np.array(["2024-01-01", "2024-07-01", "NaT"], "datetime64[D]")
    columns = named_columns(_frame(day=dates, text=np.array(["a", None, "b"], object)))
    np.testing.assert_allclose(columns["day"][:2], [2024, 2024.5], atol=0.01)
    assert np.isnan(columns["day"][2])
    assert columns["text"].tolist() == ["a", None, "b"]


def _frame(**columns):
    class Frame(dict):
        columns = property(lambda self: list(self))

    return Frame(columns)


def test_targets_that_cannot_be_are_named(regression):
    x, y = task(np.random.default_rng(7), 10)
    for wrong, said in (
        (y[:-1], "X has 10 rows and y has 9"),
        (np.stack([y, y], axis=1), r"y has the shape \[10, 2\]"),
        (np.where(np.arange(10) == 3, np.nan, y), "y is missing in 1 of 10 rows, the first of them row 3"),
    ):
        with pytest.raises(InnerloopError, match=said):
            regression.adapt(x, wrong)
    expected = regression.adapt(x, y).predict(x)
    np.testing.assert_array_equal(regression.adapt(x, y[:, None]).predict(x), expected)
    columns = {str(i): x[:, i] for i in reversed(range(4))}
    np.testing.assert_array_equal(regression.adapt(columns, y).predict(columns), expected)
