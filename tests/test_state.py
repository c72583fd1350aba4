"""A state that the loss hands from step to step: exact through every adjoint that has its derivative, or refused."""

from functools import cache

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax

from innerloop import (
    Annealed,
    FirstOrder,
    Implicit,
    InnerloopError,
    Meta,
    Mixed,
    PerStep,
    Reverse,
    StatefulLoss,
    Task,
    Truncated,
    adapt,
    evaluate,
    meta_loss,
    multi_step,
    rules,
)
from innerloop.core import checks
from oracles import finite_difference, relative_error

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)
STEPS = 5
RATE = 0.3


def recurrent(params, batch, key, state):
    """A loss that reads a hidden state, which follows the parameters and the data, and a counter, which does not."""
    hidden = jnp.tanh(params["mix"] @ state["hidden"] + params["w"] * batch)
    loss = jnp.sum(jnp.sin(params["w"] * hidden) ** 2) + jnp.sum((hidden - batch) ** 2)
    return loss, {"count": state["count"]}, {"hidden": hidden, "count": state["count"] + 1}


LOSS = StatefulLoss(recurrent, lambda params: {"hidden": params["start"], "count": 0})
RULE = rules.masked(rules.from_optax(optax.sgd(RATE, momentum=0.5)), lambda path, leaf: path != "start")


def problem():
    keys = jax.random.split(jax.random.key(3), 5)
    params = {
        "mix": 0.5 * jax.random.normal(keys[0], (3, 3)),
        "w": jax.random.normal(keys[1], (3,)),
        "start": jax.random.normal(keys[2], (3,)),
    }
    return params, jax.random.normal(keys[3], (STEPS, 3)), jax.random.normal(keys[4], (3,))


def outer(params, state, losses=None):
    value = jnp.sum(params["w"] ** 3) + jnp.sum(jnp.cos(params["mix"])) + jnp.sum(jnp.sin(state["hidden"]))
    return value if losses is None else value + losses @ jnp.arange(len(losses))


def ours(params, stream, adjoint, with_losses):
    adapted = adapt(LOSS, Meta(params, ()), PerStep(stream), KEY, rule=RULE, steps=STEPS, adjoint=adjoint)
    return outer(adapted.params, adapted.end.state, adapted.losses if with_losses else None)


def by_hand(params, stream, exact=0):
    """The scan that one would write: momentum, and an inner gradient that is a known number before step `exact`."""

    def step(carry, x):
        fast, trace, state = carry
        t, batch = x
        gradient = jax.grad(lambda fast: recurrent(fast, batch, None, state)[0])(fast)
        gradient = jax.tree.map(lambda g: jnp.where(t >= exact, g, lax.stop_gradient(g)), gradient)
        loss, _, state = recurrent(fast, batch, None, state)
        trace = jax.tree.map(lambda g, m: g + 0.5 * m, gradient, trace)
        return (jax.tree.map(lambda p, m: p - RATE * m, fast, trace), trace, state), loss

    fast = {"mix": params["mix"], "w": params["w"]}
    start = fast, jax.tree.map(jnp.zeros_like, fast), {"hidden": params["start"], "count": 0}
    (fast, _, state), losses = lax.scan(step, start, (jnp.arange(STEPS), stream))
    return fast, state, losses


@cache
def hand_gradient():
    params, stream, _ = problem()
    return jax.jit(jax.grad(lambda params, stream: outer(*by_hand(params, stream)), (0, 1)))(params, stream)


@cache
def hand_second():
    params, stream, _ = problem()
    gradient = jax.grad(lambda stream: outer(*by_hand(params, stream)))
    return jax.jit(jax.grad(lambda stream: jnp.sum(gradient(stream) ** 2)))(stream)


EXACT = [Mixed(), Mixed(unroll=0), Mixed(segment=3), Mixed(levels=2), Reverse(unroll=0), Reverse(unroll=9)]


@pytest.mark.parametrize("adjoint", EXACT, ids=str)
def test_exact_adjoints_equal_a_scan_by_hand_and_finite_differences(adjoint):
    params, stream, _ = problem()
    value = jax.jit(lambda params, stream: ours(params, stream, adjoint, True))
    gradient = jax.jit(jax.grad(value, (0, 1)))(params, stream)
    assert relative_error(gradient, hand_gradient()) < 1e-12
    if adjoint == Mixed():
        slope, direction = finite_difference(lambda params: value(params, stream), params)
        along = jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, gradient[0], direction))
        assert abs(along - slope) < 1e-10 * abs(slope)
    if adjoint in (Mixed(unroll=0), Mixed(levels=2)):
        second = jax.jit(jax.grad(lambda stream: jnp.sum(jax.grad(value, 1)(params, stream) ** 2)))
        assert relative_error(second(stream), hand_second()) < 1e-10


@pytest.mark.parametrize(
    ("adjoint", "exact"),
    [(FirstOrder(), STEPS), (FirstOrder(unroll=0), STEPS), (Truncated(3), STEPS - 3), (Truncated(0), STEPS)],
    ids=str,
)
def test_approximations_keep_the_first_derivative_of_the_state(adjoint, exact):
    """What they approximate is the inner gradient, a known number here and in the scan by hand."""
    params, stream, _ = problem()
    gradient = jax.jit(jax.grad(lambda *at: ours(*at, adjoint, False), (0, 1)))(params, stream)
    wanted = jax.jit(jax.grad(lambda *at: outer(*by_hand(*at, exact)[:2]), (0, 1)))(params, stream)
    assert relative_error(gradient, wanted) < 1e-12
    with pytest.raises(InnerloopError, match="no derivative of the inner losses"):
        jax.grad(lambda params: ours(params, stream, adjoint, True))(params)


@pytest.mark.parametrize(("progress", "exact"), [(0.2, STEPS), (0.8, 0)])
def test_annealed_is_first_order_and_then_exact(progress, exact):
    """The query loss, too, sees the state at the end of the inner loop."""
    params, stream, query = problem()
    maml = meta_loss(LOSS, rule=RULE, steps=STEPS, adjoint=Annealed(0.5))
    task = Task(PerStep(stream), query)

    def hand(params):
        fast, state, _ = by_hand(params, stream, exact)
        return recurrent(fast, query, None, state)[0]

    gradient = jax.jit(jax.grad(lambda params: maml(Meta(params, ()), task, KEY, progress)[0]))(params)
    assert relative_error(gradient, jax.jit(jax.grad(hand))(params)) < 1e-12


def test_implicit_refuses_a_state():
    params, stream, _ = problem()
    with pytest.raises(InnerloopError, match="Implicit has no derivative of a state"):
        adapt(LOSS, Meta(params, ()), stream[0], KEY, rule=RULE, steps=3, adjoint=Implicit())


def test_the_state_starts_anew_in_every_task():
    params, stream, _ = problem()
    run = jax.jit(lambda stream: adapt(LOSS, Meta(params, ()), PerStep(stream), KEY, rule=RULE, steps=STEPS).end.state)
    together = jax.vmap(run)(jnp.stack([stream, -stream, 2 * stream]))
    assert (together["count"] == STEPS).all()
    for i, one in enumerate((stream, -stream, 2 * stream)):
        assert relative_error(together["hidden"][i], run(one)["hidden"]) < 1e-12


def test_objectives_and_evaluation_see_the_state_of_each_step():
    params, stream, query = problem()
    meta, task = Meta(params, ()), Task(PerStep(stream), query)

    @jax.jit
    def after_each():
        after, end = [recurrent(params, query, None, LOSS.init(params))[0]], None
        for batch in stream:
            adapted = adapt(LOSS, meta, PerStep(batch[None]), KEY, rule=RULE, steps=1, start=end)
            end = adapted.end
            after.append(recurrent(adapted.params, query, None, end.state)[0])
        return after

    after = after_each()
    value, _ = jax.jit(meta_loss(LOSS, rule=RULE, steps=STEPS, objective=multi_step(1.0)))(meta, task, KEY, 0.0)
    assert relative_error(value, jnp.mean(jnp.stack(after[1:]))) < 1e-12

    class Once:
        def sample(self, key, num_tasks):
            return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_tasks, *leaf.shape)), task)

    jax.tree_util.register_static(Once)
    curve = evaluate(LOSS, meta, Once(), KEY, rule=RULE, steps=STEPS, num_tasks=2)
    assert relative_error(curve["query/loss"][1], jnp.stack(after)) < 1e-12


@pytest.mark.parametrize("adjoint", [Mixed(), FirstOrder(), Truncated(2), Mixed(levels=1)], ids=str)
def test_an_inner_loop_goes_on_where_another_ended(adjoint):
    """Three steps and then two are five: parameters, momentum, state, keys."""
    params, stream, _ = problem()

    @jax.jit
    def run(stream, start):
        meta, steps = Meta(params, ()), len(stream)
        return adapt(LOSS, meta, PerStep(stream), KEY, rule=RULE, steps=steps, adjoint=adjoint, start=start)

    whole, first = run(stream, None), run(stream[:3], None)
    second = run(stream[3:], first.end)
    assert int(second.end.step) == STEPS
    assert relative_error(second.end._replace(step=0), whole.end._replace(step=0)) < 1e-14


def test_what_cannot_be_a_state_is_refused_in_a_sentence():
    params, stream, _ = problem()

    def run(after, **options):
        loss = StatefulLoss(lambda params, batch, key, state: (jnp.sum(params["w"]), {}, after(state)), LOSS.init)
        adapt(loss, Meta(params, ()), stream[0], KEY, rule=RULE, steps=2, **options)

    with pytest.raises(InnerloopError, match=r"leaves count, hidden and returned one with hidden; its structure"):
        run(lambda state: {"hidden": state["hidden"]})
    with pytest.raises(InnerloopError, match=r"float64\[3\] at hidden and returned float64\[4\]; shape and type must"):
        run(lambda state: {**state, "hidden": jnp.zeros(4)})
    with pytest.raises(InnerloopError, match=r"float64\[3\] at hidden and returned float32\[3\]"):
        run(lambda state: {**state, "hidden": jnp.zeros(3, jnp.float32)})
    loss = StatefulLoss(lambda params, batch, key, state: (jnp.sum(params["w"]), {}), LOSS.init)
    with pytest.raises(InnerloopError, match="must return"):
        adapt(loss, Meta(params, ()), stream[0], KEY, rule=RULE, steps=2)
    with pytest.raises(InnerloopError, match="start must be where another inner loop ended"):
        checks.require_start(params, params)
    end = adapt(LOSS, Meta(params, ()), stream[0], KEY, rule=rules.sgd(0.1), steps=1).end
    with pytest.raises(InnerloopError, match="on other parameters than the rule adapts here; these differ: start"):
        run(lambda state: state, start=end)
    plain = lambda params, batch, key: (jnp.sum(params["w"] ** 2), {})  # noqa: E731
    maml = meta_loss(plain, rule=RULE, steps=1, query_loss=LOSS)
    with pytest.raises(InnerloopError, match="the inner loss hands on none"):
        maml(Meta(params, ()), Task(stream[0], stream[1]), KEY)
