"""The meta-loss of one task: its value, its metrics, and its special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import FirstOrder, InnerloopError, Meta, Mixed, meta_loss, rules
from innerloop.core.objectives import reptile
from oracles import adapted, quadratic_loss, quadratic_task

KEY = jax.random.key(0)
THETA, TASK = jnp.arange(4.0), quadratic_task(0)


def gradient(**options):
    loss = meta_loss(quadratic_loss, **options)
    return jax.grad(lambda theta: loss(Meta(theta, ()), TASK, KEY)[0])(THETA)


def test_no_steps_is_joint_training():
    expected = jax.grad(lambda theta: quadratic_loss(theta, TASK.query, KEY)[0])(THETA)
    assert (gradient(rule=rules.sgd(0.1), steps=0) == expected).all()


def test_step_size_zero_makes_first_order_exact():
    exact = gradient(rule=rules.sgd(0.0), steps=3, adjoint=Mixed())
    assert (gradient(rule=rules.sgd(0.0), steps=3, adjoint=FirstOrder()) == exact).all()


def test_metrics_are_before_and_after():
    def loss(params, batch, key):
        return quadratic_loss(params, batch, key)[0], {"size": jnp.sum(params)}

    _, metrics = meta_loss(loss, rule=rules.sgd(0.1), steps=2)(Meta(THETA, ()), TASK, KEY)
    end = adapted(THETA, TASK, 0.1, 2)
    np.testing.assert_allclose(metrics["loss_before"], quadratic_loss(THETA, TASK.support, KEY)[0], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss_after"], quadratic_loss(end, TASK.query, KEY)[0], rtol=1e-5)
    np.testing.assert_allclose([metrics["size_before"], metrics["size_after"]], [6.0, jnp.sum(end)], rtol=1e-5)


def test_the_query_loss_may_differ_from_the_inner_loss():
    other = lambda params, batch, key: (jnp.sum(params), {})  # noqa: E731
    value, _ = meta_loss(quadratic_loss, rule=rules.sgd(0.1), steps=1, query_loss=other)(Meta(THETA, ()), TASK, KEY)
    np.testing.assert_allclose(value, jnp.sum(adapted(THETA, TASK, 0.1, 1)), rtol=1e-6)


def test_reptile_moves_towards_the_adapted_parameters():
    step = gradient(rule=rules.sgd(0.1), steps=3, adjoint=FirstOrder(), objective=reptile)
    np.testing.assert_allclose(step, THETA - adapted(THETA, TASK, 0.1, 3), rtol=1e-5, atol=1e-6)


def test_reptile_learns_what_the_inner_loop_leaves_alone():
    """Leaves outside the mask get the gradient of the query loss at the adapted parameters, held fixed."""

    def loss(params, batch, key):
        return quadratic_loss(params["fast"] + params["shared"], batch, key)[0], {}

    params = {"fast": THETA, "shared": jnp.ones(4), "key": jax.random.key(1)}
    rule = rules.masked(rules.sgd(0.1), lambda path, leaf: path == "fast")
    moved = meta_loss(loss, rule=rule, steps=2, adjoint=FirstOrder(), objective=reptile)

    def value(fast, shared):
        return moved(Meta({**params, "fast": fast, "shared": shared}, ()), TASK, KEY)[0]

    fast, shared = jax.grad(value, (0, 1))(THETA, jnp.ones(4))
    end = adapted(THETA + 1, TASK, 0.1, 2) - 1
    np.testing.assert_allclose(fast, THETA - end, rtol=1e-5, atol=1e-6)
    expected = jax.grad(lambda shared: quadratic_loss(end + shared, TASK.query, KEY)[0])(jnp.ones(4))
    np.testing.assert_allclose(shared, expected, rtol=1e-5)


def test_what_is_no_task_is_refused():
    value = meta_loss(quadratic_loss, rule=rules.sgd(0.1), steps=1)
    with pytest.raises(InnerloopError, match=r"must be Task\(support, query\), not a tuple"):
        getattr(value, "__wrapped__", value)(Meta(THETA, ()), tuple(TASK), KEY)


def test_a_query_loss_that_is_no_scalar_is_refused():
    bad = meta_loss(quadratic_loss, rule=rules.sgd(0.1), steps=1, query_loss=lambda params, batch, key: (params, {}))
    with pytest.raises(InnerloopError, match="take its mean"):
        bad(Meta(THETA, ()), TASK, KEY)
