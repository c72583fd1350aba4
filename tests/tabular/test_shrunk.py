"""The head that is shrunk towards what all tasks share: its limits are the pooled model and the task's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Examples, InnerloopError
from innerloop.tabular import learner as learning
from innerloop.tabular import shrunk
from innerloop.tabular.design import Design
from innerloop.tabular.features import Inputs
from innerloop.types import Task

DESIGN = Design("regression", widths=(8,), start="shrunk", steps=0, targets="global", pooled=1)
RANDOM = np.random.default_rng(0)


def rows(number):
    numbers = RANDOM.normal(size=(number, 4)).astype(np.float32)  # the last one is what a pooled model predicts
    return Inputs(np.zeros((number, 0), np.uint8), numbers)


def predicted(meta, x, y, query, design=DESIGN):
    support = Examples(x, jnp.asarray(y, jnp.float32), jnp.ones(len(y)))
    adapted = learning.adapt_task(design, 1, meta, support)
    return np.asarray(learning.outputs(design, 1, meta, adapted, query))[:, 0]


def with_head(meta, **values):
    head = meta.params["head"]
    changed = {name: jnp.full_like(head[name], value) for name, value in values.items()}
    return meta._replace(params={**meta.params, "head": {**head, **changed}})


def begun(design=DESIGN):
    return learning.initial(design, (0, 4), 1, jax.random.key(0))


AMPLITUDES = ("log_level", "log_embedding", "log_numbers", "log_counts", "log_pooled")


def test_with_no_differences_between_tasks_it_is_the_pooled_model():
    x, query = rows(10), rows(6)
    meta = with_head(begun(), **dict.fromkeys(AMPLITUDES, -20.0))
    found = predicted(meta, x, RANDOM.normal(size=10), query)
    np.testing.assert_allclose(found, query.numbers[:, -1], atol=1e-5)


def test_with_a_constant_alone_it_is_the_pooled_model_with_a_random_intercept():
    x, query, y = rows(10), rows(6), RANDOM.normal(size=10) + 3
    variance, noise = 0.7, 0.4
    meta = with_head(begun(), **dict.fromkeys(AMPLITUDES, -20.0))
    meta = with_head(meta, log_level=np.log(variance) / 2, log_ridge=np.log(noise))
    left = y - x.numbers[:, -1]
    intercept = left.mean() * 10 * variance / (10 * variance + noise)
    np.testing.assert_allclose(predicted(meta, x, y, query), query.numbers[:, -1] + intercept, atol=1e-4)


def test_with_many_rows_it_is_the_model_of_the_task_alone():
    x, query = rows(4000), rows(6)
    weight = np.array([1.0, -2.0, 0.5, 0.0])
    y = x.numbers @ weight + 3 + 0.1 * RANDOM.normal(size=4000)
    np.testing.assert_allclose(predicted(begun(), x, y, query), query.numbers @ weight + 3, atol=0.1)


def test_the_ridge_fit_solves_its_normal_equations_in_both_forms():
    for number in (5, 40):
        z, y, weight = RANDOM.normal(size=(number, 8)), RANDOM.normal(size=(number, 2)), RANDOM.random(number)
        with jax.enable_x64(True):
            found = shrunk.gaussian(*map(jnp.asarray, (z, y, weight)), jnp.asarray(0.3))
        expected = np.linalg.solve(z.T @ (weight[:, None] * z) + 0.3 * np.eye(8), z.T @ (weight[:, None] * y))
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("number", "width"), [(10, 30), (60, 6)])
def test_the_logistic_fit_tends_to_that_of_scikit_learn(number, width, monkeypatch):
    linear = pytest.importorskip("sklearn.linear_model")
    x, y, weight = RANDOM.normal(size=(number, width)), RANDOM.integers(0, 3, number), RANDOM.random(number)
    model = linear.LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10000)
    expected = model.fit(x, y, sample_weight=weight).coef_.T
    monkeypatch.setattr(shrunk, "NEWTON_STEPS", 100)
    with jax.enable_x64(True), jax.disable_jit():
        found = shrunk.logistic(jnp.asarray(x), jnp.eye(3)[y], jnp.asarray(weight), jnp.zeros((number, 3)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_common_head_begins_as_the_ridge_regression_of_all_rows():
    x = rows(500)
    y = x.numbers @ np.array([1.0, 0.0, -1.0, 2.0]) + 0.5
    meta = learning.started_pooled(DESIGN, begun(), x, y)
    meta = with_head(meta, **dict.fromkeys(AMPLITUDES, -20.0))
    np.testing.assert_allclose(predicted(meta, rows(3), np.zeros(3), x), y, atol=0.2)


def test_layers_that_the_inner_loop_adapts_are_refused():
    with pytest.raises(InnerloopError, match="adapts the head alone"):
        Design("regression", start="shrunk", adapted=(8,)).require()


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_a_batch_of_tasks_of_unequal_sizes_has_finite_gradients(size):
    """Padded tasks, one of them with rows of one class, and amplitudes and features as large as training makes them."""
    design = Design(widths=(8,), start="shrunk", steps=0)
    meta = learning.initial(design, (0, 150), 2, jax.random.key(0))
    meta = with_head(meta, **dict.fromkeys(AMPLITUDES, 30.0)) if size > 1 else meta
    numbers = size * RANDOM.normal(size=(4, 128, 150)).astype(np.float32)
    numbers[:, 64:] = numbers[:, :64]  # rows that occur twice: the matrix of their products has no inverse
    y = jnp.asarray(RANDOM.integers(0, 2, (4, 128)).astype(np.int32)).at[3].set(1)
    weight = jnp.asarray((np.arange(128) < np.array([[128], [64], [3], [5]])).astype(np.float32))
    batch = Examples(Inputs(np.zeros((4, 128, 0), np.uint8), numbers), y, weight)
    loss = learning.learner_loss(design, 2)

    def mean(meta):
        keys = jax.random.split(jax.random.key(1), 4)
        return jnp.mean(jax.vmap(lambda task, key: loss(meta, task, key)[0])(Task(batch, batch), keys))

    value, gradient = jax.jit(jax.value_and_grad(mean, allow_int=True))(meta)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient) if leaf.dtype != jax.dtypes.float0)
