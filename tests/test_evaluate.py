"""Evaluation: curves on fixed tasks, whatever the layout, with their interval."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Layout, Meta, Task, evaluate, losses, models, rules, summarise, tasks
from innerloop.core.evaluate import adaptation_curve
from oracles import adapted, quadratic_loss, quadratic_task

KEY = jax.random.key(0)


def test_curve_has_its_closed_form():
    theta, task = jnp.arange(4.0), quadratic_task(0)
    curve = adaptation_curve(
        quadratic_loss, Meta(theta, ()), task, KEY, rule=rules.sgd(0.1), steps=3, query_losses={"query": quadratic_loss}
    )
    expected = [quadratic_loss(adapted(theta, task, 0.1, t), task.query, KEY)[0] for t in range(4)]
    np.testing.assert_allclose(curve["query/loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("layout", [Layout(), Layout(chunk=1), Layout(chunk=4), Layout(2, 3)], ids=str)
def test_the_same_key_gives_the_same_tasks_in_any_layout(layout):
    model = models.mlp(1, (8,), 1, initializer=models.glorot)
    loss = losses.supervised(model, losses.squared_error)
    run = partial(evaluate, loss, rule=rules.sgd(0.01), steps=2, num_tasks=10)
    meta = Meta(model.init(KEY), ())
    curves = jax.jit(partial(run, layout=layout))(meta, tasks.Sinusoids(5, 20), KEY)
    assert curves["query/loss"].shape == (10, 3)
    one_by_one = jax.jit(partial(run, layout=Layout(chunk=1)))(meta, tasks.Sinusoids(5, 20), KEY)
    np.testing.assert_allclose(curves["query/loss"], one_by_one["query/loss"], rtol=1e-4)


def test_summary_is_the_papers_interval():
    values = np.random.default_rng(0).normal(size=(600, 3))
    mean, interval = summarise(values)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(interval, 1.96 * values.std(0) / np.sqrt(600))


def test_judges_are_named():
    loss = lambda params, batch, key: (jnp.sum((params - batch) ** 2), {"size": jnp.sum(params)})  # noqa: E731
    task = Task(jnp.ones(2), jnp.zeros(2))
    judges = {"a": loss, "b": loss}
    curve = adaptation_curve(loss, Meta(jnp.zeros(2), ()), task, KEY, rule=rules.sgd(0.1), steps=1, query_losses=judges)
    assert set(curve) == {"a/loss", "a/size", "b/loss", "b/size"}
