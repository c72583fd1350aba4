"""The estimators among scikit-learn's: its own checks, its tools, and a learner that was trained on other tasks."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from innerloop import FewShotClassifier, FewShotRegressor, InnerloopError, TabularMetaLearner

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
    failed = [each for each in check_estimator(estimator, on_fail=None) if each["status"] not in ("passed", "skipped")]
    assert failed == []


@pytest.mark.slow
def test_a_trained_learner_serves_as_the_start_of_an_estimator(regression, tmp_path):
    random = np.random.default_rng(5)
    x, y = task(random, 60)
    warm = FewShotRegressor(pretrained=regression).fit(x[:6], y[:6])
    assert warm.score(x[6:], y[6:]) > FewShotRegressor().fit(x[:6], y[:6]).score(x[6:], y[6:])
    adapted = regression.adapt(x[:6], y[:6])
    np.testing.assert_allclose(adapted.predict(x[6:]), warm.predict(x[6:]), rtol=1e-5)
    assert adapted.predict_spread(x[6:]).min() > 0
    regression.save(tmp_path)
    loaded = FewShotRegressor(pretrained=str(tmp_path)).fit(x[:6], y[:6])
    np.testing.assert_array_equal(loaded.predict(x[6:]), warm.predict(x[6:]))
    with pytest.raises(InnerloopError, match="needs one of classification"):
        FewShotClassifier(pretrained=regression).fit(x[:6], y[:6] > 100)
    with pytest.raises(InnerloopError, match="X lacks 2 of the 4 features of the learner: 2, 3"):
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


def test_what_cannot_be_learned_from_is_refused():
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
    trunk = regression.trained().meta.params["encoder"]
    arrays = {f"{layer}/{name}": np.asarray(leaf) for layer, leaves in trunk.items() for name, leaf in leaves.items()}
    warm = TabularMetaLearner(iterations=1, supports=(8,), preset="fast", initial=arrays).fit(tasks)
    cold = TabularMetaLearner(iterations=1, supports=(8,), preset="fast").fit(tasks)
    distance = lambda learner: float(  # noqa: E731
        np.abs(np.asarray(learner.trained().meta.params["encoder"]["dense1"]["kernel"]) - arrays["dense1/kernel"]).max()
    )
    assert distance(warm) < 0.01 < distance(cold)
    with pytest.raises(InnerloopError, match="initial differs in dense1/bias, dense1/kernel, "):
        TabularMetaLearner(iterations=1, initial={}).fit(tasks)
