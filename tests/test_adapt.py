"""The inner loop itself: what it computes, how it composes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import FirstOrder, InnerloopError, Meta, Mixed, PerStep, Reverse, Truncated, adapt, rules
from innerloop.core import checks
from oracles import adapted, momentum_adapted, quadratic_loss, quadratic_task, relative_error

KEY = jax.random.key(0)


def run(theta, task, rule, steps, **options):
    return adapt(quadratic_loss, Meta(theta, rule.init(theta)), task.support, KEY, rule=rule, steps=steps, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("adjoint", [Mixed(), Reverse(), FirstOrder(), Truncated(1), Mixed(unroll=0)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_gradient_descent_has_its_closed_form(adjoint, steps):
    theta, task = jnp.arange(4.0), quadratic_task(0)
    state = run(theta, task, rules.sgd(0.1), steps, adjoint=adjoint)
    assert relative_error(state.params, adapted(theta, task, 0.1, steps)) < 1e-12
    path = [adapted(theta, task, 0.1, t) for t in range(steps)]
    np.testing.assert_allclose(state.losses, [quadratic_loss(p, task.support, KEY)[0] for p in path], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_momentum_has_its_closed_form():
    theta, task = jnp.arange(4.0), quadratic_task(0)
    state = run(theta, task, rules.from_optax(optax.sgd(0.1, momentum=0.8)), 5)
    assert relative_error(state.params, momentum_adapted(theta, task, 0.1, 0.8, 5)) < 1e-12


def test_trajectory_holds_every_step():
    theta, task = jnp.arange(4.0), quadratic_task(0)
    state = run(theta, task, rules.sgd(0.1), 3, trajectory=True)
    assert state.trajectory.shape == (4, 4)
    for steps in range(4):
        np.testing.assert_allclose(state.trajectory[steps], run(theta, task, rules.sgd(0.1), steps).params, rtol=1e-6)


def test_vmap_over_tasks_equals_a_loop():
    theta, tasks = jnp.arange(4.0), [quadratic_task(seed) for seed in range(5)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    batched = jax.vmap(lambda task: run(theta, task, rules.sgd(0.1), 3).params)(stacked)
    np.testing.assert_allclose(batched, [run(theta, task, rules.sgd(0.1), 3).params for task in tasks], rtol=1e-5)


@pytest.mark.parametrize("rule", [rules.from_optax(optax.adam(0.1)), rules.sgd(0.1)], ids=["adam", "sgd"])
def test_a_rule_is_pure(rule):
    """Adapting to another task in between changes nothing: no state leaks from task to task."""
    theta, one, other = jnp.arange(4.0), quadratic_task(0), quadratic_task(1)
    before = run(theta, one, rule, 3).params
    run(theta, other, rule, 3)
    assert (run(theta, one, rule, 3).params == before).all()


def test_zero_step_size_changes_nothing():
    theta, task = jnp.arange(4.0), quadratic_task(0)
    assert (run(theta, task, rules.sgd(0.0), 3).params == theta).all()


def test_only_masked_leaves_move_and_need_a_gradient():
    def loss(params, batch, key):
        return jnp.sum(params["head"] * params["body"]) + params["count"] * 0.0, {}

    params = {"head": jnp.ones(2), "body": jnp.ones(2), "count": jnp.int32(3)}
    rule = rules.masked(rules.sgd(0.1), lambda path, leaf: path == "head")
    state = adapt(loss, Meta(params, rule.init(params)), jnp.zeros(1), KEY, rule=rule, steps=2, trajectory=True)
    np.testing.assert_allclose(state.params["head"], 0.8)
    assert (state.params["body"] == 1).all()
    assert state.params["count"] == 3
    assert state.trajectory["body"].shape == (3, 2)


def test_each_step_has_its_own_randomness():
    loss = lambda params, batch, key: (params * jax.random.normal(key), {})  # noqa: E731
    state = adapt(loss, Meta(jnp.zeros(()), ()), jnp.zeros(1), KEY, rule=rules.sgd(1.0), steps=3, trajectory=True)
    moves = np.diff(state.trajectory)
    np.testing.assert_allclose(moves, [-jax.random.normal(jax.random.fold_in(KEY, t)) for t in range(3)], rtol=1e-5)


def test_metrics_come_from_every_step():
    loss = lambda params, batch, key: (jnp.sum(params**2), {"sum": jnp.sum(params)})  # noqa: E731
    state = adapt(loss, Meta(jnp.ones(2), ()), jnp.zeros(1), KEY, rule=rules.sgd(0.25), steps=2)
    np.testing.assert_allclose(state.metrics["sum"], [2.0, 1.0])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda params, batch, key: (params, {}), r"scalar, not float32\[4\]; take its mean"),
        (lambda params, batch, key: (jnp.int32(1), {}), "floating-point scalar, not int32"),
        (lambda params, batch, key: jnp.sum(params), r"must return \(scalar, dict of metrics\), not an array float32"),
        (lambda params, batch, key: (jnp.sum(params), None), r"not None as its metrics"),
        (lambda params, batch, key: (None, {}), "returned None as its 'loss'"),
        (lambda params, batch, key: (jnp.sum(params), {"name": "x"}), "returned 'x' as its 'name'"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused(loss, message):
    with pytest.raises(InnerloopError, match=message):
        adapt(loss, Meta(jnp.ones(4), ()), jnp.zeros(1), KEY, rule=rules.sgd(0.1), steps=1)


def test_negative_steps_are_refused():
    with pytest.raises(InnerloopError, match="steps=-1"):
        run(jnp.ones(4), quadratic_task(0), rules.sgd(0.1), -1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adjoint": FirstOrder}, "not the class FirstOrder"),
        ({"rule": optax.sgd(0.1)}, "rule must be an InnerRule, such as .* not a GradientTransformation"),
        ({"rule": rules.sgd}, "rule must be an InnerRule, such as .* not a function"),
        ({"meta": {"w": 1.0}}, r"meta must be Meta\(params, rule.init\(params\)\), not a dict"),
        ({"steps": 2.5}, "steps must be a whole number known in advance, not 2.5"),
        ({"steps": "2"}, "steps must be a whole number"),
        ({"steps": jnp.int32(2)}, "not an array int32"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(wrong, message):
    right = {"meta": Meta(jnp.ones(4), ()), "rule": rules.sgd(0.1), "steps": 1, "adjoint": Mixed(), "key": KEY}
    with pytest.raises(InnerloopError, match=message):
        checks.require_kinds(**(right | wrong))
    with pytest.raises(InnerloopError, match="not the class Mixed"):
        checks.require_adjoint(Mixed)


def test_no_gradient_flows_through_metrics():
    def through_metrics(theta, adjoint):
        loss = lambda params, batch, key: (jnp.sum(params**2), {"size": jnp.sum(params**3)})  # noqa: E731
        state = adapt(loss, Meta(theta, ()), jnp.zeros(1), KEY, rule=rules.sgd(0.1), steps=2, adjoint=adjoint)
        return jnp.sum(state.metrics["size"])

    for adjoint in (Mixed(), Reverse(), FirstOrder()):
        assert not jax.grad(through_metrics)(jnp.ones(2), adjoint).any()


def test_per_step_support_of_another_length_is_refused():
    support = PerStep(jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), quadratic_task(0).support))
    with pytest.raises(InnerloopError, match="3 inner steps need a leading axis of 3"):
        adapt(quadratic_loss, Meta(jnp.ones(4), ()), support, KEY, rule=rules.sgd(0.1), steps=3)


def test_adapting_an_integer_is_refused():
    rule = rules.sgd(0.1)._replace(adapts=lambda params: jax.tree.map(lambda leaf: True, params))
    loss = lambda params, batch, key: (params["w"], {})  # noqa: E731
    params = {"w": jnp.ones(()), "n": jnp.int32(1)}
    with pytest.raises(InnerloopError, match="parameter n of type int32, which has no gradient"):
        adapt(loss, Meta(params, ()), jnp.zeros(1), KEY, rule=rule, steps=1)
