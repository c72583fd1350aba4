"""Evaluation: curves on fixed tasks, whatever the layout, with their interval."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Examples, Layout, Meta, Task, adapt, evaluate, losses, models, rules, summarise, tasks
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


def test_the_last_score_alone_is_that_of_the_curve():
    model = models.mlp(1, (8,), 1, initializer=models.glorot)
    loss = losses.supervised(model, losses.squared_error)
    run = partial(evaluate, loss, rule=rules.sgd(0.01), steps=2, num_tasks=4)
    one, several = (Meta(jax.vmap(model.init)(jax.random.split(KEY, size)), ()) for size in (1, 3))
    alone = Meta(jax.tree.map(lambda leaf: leaf[0], one.params), ())
    judge = {"query": losses.supervised(models.ensemble(model, probabilities=False), losses.squared_error)}
    for meta, settings in ((alone, {}), (several, {"ensemble": True, "query_losses": judge})):
        curve, last = (
            jax.jit(partial(run, last=last, **settings))(meta, tasks.Sinusoids(5, 20), KEY)["query/loss"]
            for last in (False, True)
        )
        assert last.shape == (4, 1)
        np.testing.assert_allclose(last[:, 0], curve[:, -1], rtol=1e-5)


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


def test_an_ensemble_adapts_each_member_and_averages_their_predictions():
    """Against a Python loop over the members, with statistics of the batch and of the support set."""
    network = models.convnet((8, 8, 1), 3, filters=2, blocks=2)
    together, rule = models.ensemble(network, probabilities=True), rules.sgd(0.1)
    members = [network.init(jax.random.fold_in(KEY, seed)) for seed in range(3)]
    x, y = jax.random.normal(KEY, (6, 8, 8, 1)), jnp.arange(6) % 3
    task = Task(Examples(x, y), Examples(x + 0.1, y, reference=x))
    loss = losses.supervised(network, losses.cross_entropy)
    ends = [adapt(loss, Meta(one, ()), task.support, KEY, rule=rule, steps=2).params for one in members]
    stacked = Meta(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members), ())
    for statistics in ("batch", "support"):
        judge = losses.supervised(together, losses.cross_entropy, statistics)
        settings = {"rule": rule, "steps": 2, "query_losses": {"query": judge}, "ensemble": True}
        curve = jax.jit(partial(adaptation_curve, loss, **settings))(stacked, task, KEY)
        seen = [network.moments(end, x, None) if statistics == "support" else None for end in ends]
        outputs = [network.apply(end, task.query.x, moments=at) for end, at in zip(ends, seen, strict=True)]
        mean = jnp.mean(jax.nn.softmax(jnp.stack(outputs)), axis=0)
        expected = -jnp.mean(jnp.log(jnp.take_along_axis(mean, y[:, None], axis=1)))
        np.testing.assert_allclose(curve["query/loss"][-1], expected, rtol=1e-4)
