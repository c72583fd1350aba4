"""Every row of the table obeys the same protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import ALGORITHMS, InnerloopError, Meta, algorithms, losses, models, tasks
from oracles import maml_gradient, quadratic_loss, quadratic_task, relative_error

KEY = jax.random.key(0)


def built(name, loss, rate=0.05, steps=2):
    row = il.algorithm(name)
    rule = row.rule(rate)
    return rule, algorithms.build(row, loss, rule=rule, steps=steps)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_protocol(name):
    """It learns, it is pure, the second call compiles nothing, and its row names paper and purpose."""
    model = models.mlp(1, (16,), 1, initializer=models.glorot)
    loss = losses.supervised(model, losses.squared_error)
    rule, meta_loss = built(name, loss)
    optimizer = optax.adam(3e-3)
    run = jax.jit(il.repeat(il.meta_step(meta_loss, optimizer, meta_batch=8)))
    state = il.init(model.init(KEY), rule, optimizer, KEY)
    first, metrics = run(state, tasks.Sinusoids(), np.int32(3))
    again, _ = run(state, tasks.Sinusoids(), np.int32(3))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first.meta, again.meta)
    assert all(jax.tree.leaves(same))
    _, later = run(first, tasks.Sinusoids(), np.int32(600))
    assert run._cache_size() == 1
    assert later["loss_after"] < metrics["loss_after"]
    assert ("loss_before" in metrics) == ALGORITHMS[name].adapts
    assert ALGORITHMS[name].summary
    assert "20" in ALGORITHMS[name].reference


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "exact_steps"), [("maml", None), ("fomaml", 0), ("truncated-maml", 1), ("meta-sgd", None)]
)
def test_closed_form(name, exact_steps):
    theta, task = jnp.arange(4.0), quadratic_task(0)
    rule, meta_loss = built(name, quadratic_loss)
    gradient = jax.grad(lambda t: meta_loss(Meta(t, rule.init(theta)), task, KEY)[0])(theta)
    assert relative_error(gradient, maml_gradient(theta, task, 0.05, 2, exact_steps)) < 1e-10


def test_an_unknown_algorithm_lists_the_rows():
    with pytest.raises(InnerloopError, match="no algorithm 'mamal'; choose one of: maml, fomaml"):
        il.algorithm("mamal")
