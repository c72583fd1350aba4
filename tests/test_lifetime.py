"""Inner models that persist, the online objective: against loops by hand and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import (
    FirstOrder,
    Implicit,
    InnerloopError,
    Lifetime,
    Meta,
    Mixed,
    PerStep,
    Reverse,
    Task,
    Truncated,
    last_step,
    lifetimes,
    meta_loss,
    multi_step,
    online,
    rules,
)
from oracles import finite_difference, relative_error

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def loss(params, batch, key):
    """Adapts `w`; the outer loop learns `weight`, too."""
    return jnp.sum(jax.nn.softplus(params["weight"]) * jnp.sin(params["w"] - batch) ** 2), {}


class Stream:
    """The same stream at every draw, so that a loop by hand needs no keys."""

    def __init__(self, stride):
        self.stride = stride

    def sample(self, key, num_tasks):
        batch = jnp.linspace(-1.0, 1.0, 3 * self.stride).reshape(self.stride, 3)
        repeated = lambda leaf: jnp.broadcast_to(leaf, (num_tasks, *leaf.shape))  # noqa: E731
        return jax.tree.map(repeated, Task(PerStep(batch), jnp.array([0.5, 0.1, -0.2])))


jax.tree_util.register_static(Stream)
PARAMS = {"w": np.array([0.3, -0.2, 0.1]), "weight": np.array([0.1, 0.2, -0.5])}
RULE = rules.masked(rules.meta_sgd(0.1), lambda path, leaf: path == "w")


def by_hand(lifetime, steps, weighs):
    """Meta-parameters after some meta-steps, and the members, by plain loops; Adam outside, in one call a step."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    learned = {"params": params, "rates": RULE.init(params)["w"]}
    optimizer = optax.adam(0.05)
    state, window = optimizer.init(learned), lifetime.window or lifetime.stride
    stream, query = Stream(lifetime.stride).sample(None, 1)
    batches, query = stream.batches[0], query[0]
    turns = lifetime.length // lifetime.stride
    offsets = [i * turns // lifetime.population for i in range(lifetime.population)]
    members = [params["w"]] * lifetime.population

    def unrolled(learned, w, steps):
        whole = lambda w: {"w": w, "weight": learned["params"]["weight"]}  # noqa: E731
        seen = []
        for t in range(steps):
            value, gradient = jax.value_and_grad(lambda w, t=t: loss(whole(w), batches[t % len(batches)], None)[0])(w)
            seen.append(value)
            w = w - learned["rates"] * gradient
        return w, (loss(whole(w), query, None)[0] if weighs is None else jnp.stack(seen) @ jnp.asarray(weighs))

    def starts(learned, members, fresh):
        return [jnp.where(new, learned["params"]["w"], w) for new, w in zip(fresh, members, strict=True)]

    def total(learned, members, fresh):
        return sum(unrolled(learned, w, window)[1] for w in starts(learned, members, fresh)) / len(members)

    @jax.jit
    def step(learned, state, members, fresh):
        ends = [unrolled(learned, w, lifetime.stride)[0] for w in starts(learned, members, fresh)]
        updates, state = optimizer.update(jax.grad(total)(learned, members, fresh), state)
        return optax.apply_updates(learned, updates), state, ends

    for s in range(steps):
        fresh = jnp.array([(s + offset) % turns == 0 or s == 0 for offset in offsets])
        learned, state, members = step(learned, state, members, fresh)
    return learned, members


@pytest.mark.parametrize(
    ("lifetime", "weighs"),
    [
        (Lifetime(6, stride=2, population=2), None),
        (Lifetime(4, stride=1, window=3, population=3), None),
        (Lifetime(6, stride=3), [0.2, 0.3, 0.5]),
    ],
    ids=["windows side by side", "windows that overlap", "online"],
)
def test_lives_equal_loops_by_hand(lifetime, weighs):
    objective = last_step if weighs is None else online(weighs)
    lives = lifetimes(loss, optax.adam(0.05), lifetime, rule=RULE, objective=objective)
    state, step = lives.init(jax.tree.map(jnp.asarray, PARAMS), KEY), jax.jit(lives.step)
    for _ in range(5):
        state, _ = step(state, Stream(lifetime.stride))
    learned, members = by_hand(lifetime, 5, weighs)
    assert relative_error(state.outer.meta.params, learned["params"]) < 1e-10
    assert relative_error(state.outer.meta.rule["w"], learned["rates"]) < 1e-10
    assert relative_error(state.members.params["w"], jnp.stack(members)) < 1e-10


def test_members_start_anew_at_the_end_of_their_lives():
    lives = lifetimes(loss, optax.sgd(0.0), Lifetime(6, stride=2, population=3), rule=RULE)
    state, step = lives.init(jax.tree.map(jnp.asarray, PARAMS), KEY), jax.jit(lives.step)
    ages = []
    for _ in range(5):
        state, _ = step(state, Stream(2))
        ages.append(state.members.step.tolist())
    assert ages == [[2, 2, 2], [4, 4, 2], [6, 2, 4], [2, 4, 6], [4, 6, 2]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 0}, "at least 1 step"),
        ({"length": 5, "stride": 2}, "not a multiple of stride=2"),
        ({"length": 6, "stride": 2, "window": 3}, "must be a multiple of stride=2"),
        ({"length": 4, "stride": 2, "window": 6}, "the window is longer than the life of 4 steps"),
    ],
)
def test_lives_that_cannot_be_are_refused(options, words):
    with pytest.raises(InnerloopError, match=words):
        Lifetime(**options)
    with pytest.raises(InnerloopError, match="last_step or online"):
        lifetimes(loss, optax.sgd(0.1), Lifetime(2), rule=RULE, objective=multi_step())


def streamed(adjoint, weights=None):
    value = meta_loss(loss, rule=RULE, steps=4, adjoint=adjoint, objective=online(weights))
    task = Task(PerStep(jnp.sin(jnp.arange(12.0)).reshape(4, 3)), None)
    return lambda meta: value(meta, task, KEY)[0]


META = Meta(jax.tree.map(np.asarray, PARAMS), {"w": np.full(3, 0.1), "weight": None})


@pytest.mark.parametrize("adjoint", [Mixed(), Mixed(levels=1), Reverse(unroll=0), Truncated(4)], ids=str)
def test_the_online_objective_equals_finite_differences(adjoint):
    value = jax.jit(streamed(adjoint, [0.1, 0.2, 0.3, 0.4]))
    gradient = jax.jit(jax.grad(value))(META)
    slope, direction = finite_difference(value, META)
    along = jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, gradient, direction))
    assert abs(along - slope) < 1e-10 * abs(slope)
    assert relative_error(streamed(Mixed())(META), streamed(Mixed(), [0.25] * 4)(META)) < 1e-14


@pytest.mark.parametrize("adjoint", [FirstOrder(), Truncated(3)], ids=str)
def test_the_online_objective_is_refused_where_inner_losses_have_no_derivative(adjoint):
    with pytest.raises(InnerloopError, match="no derivative of the inner losses"):
        jax.grad(streamed(adjoint))(META)


def test_online_refuses_what_cannot_be():
    with pytest.raises(InnerloopError, match="one support batch for all inner steps"):
        jax.grad(streamed(Implicit()))(META)
    with pytest.raises(InnerloopError, match="2 weights for 4 inner steps"):
        streamed(Mixed(), [1.0, 2.0])(META)
    with pytest.raises(InnerloopError, match="finite"):
        online([float("nan")])
    with pytest.raises(InnerloopError, match="none with steps=0"):
        meta_loss(loss, rule=RULE, steps=0, objective=online())(META, Task(jnp.zeros(3), None), KEY)
