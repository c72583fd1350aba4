"""The outer loop: layouts agree, steps group freely, nothing is compiled twice."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import InnerloopError, Layout, Meta, losses, models, rules, tasks
from innerloop.core import outer
from innerloop.core.layout import map_over_tasks, mean_over_tasks
from oracles import quadratic_loss, quadratic_task

KEY = jax.random.key(0)
LAYOUTS = [Layout(), Layout(chunk=1), Layout(chunk=3), Layout(shards=2), Layout(shards=2, chunk=1), Layout(2, 3)]


def sinusoid_step(layout=Layout(), optimizer=None, meta_batch=6, rule=None):
    model = models.mlp(1, (16,), 1, initializer=models.glorot)
    loss = losses.supervised(model, losses.squared_error)
    rule = rule or rules.sgd(0.01)
    optimizer = optimizer or optax.adam(1e-2)
    step = il.meta_step(il.meta_loss(loss, rule=rule, steps=2), optimizer, meta_batch=meta_batch, layout=layout)
    return step, il.init(model.init(jax.random.key(1)), rule, optimizer, jax.random.key(2))


def leaves_of(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.meta, state.optimizer, state.step))]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_layout_does_not_change_the_meta_gradient(layout):
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[quadratic_task(seed) for seed in range(6)])
    loss = il.meta_loss(quadratic_loss, rule=rules.sgd(0.1), steps=2)
    theta = Meta(jnp.arange(4.0), ())
    gradient, metrics = jax.jit(il.meta_gradient(loss, layout))(theta, batch, KEY)
    by_hand = [
        jax.grad(loss, has_aux=True)(theta, jax.tree.map(lambda leaf, i=i: leaf[i], batch), jax.random.fold_in(KEY, i))
        for i in range(6)
    ]
    np.testing.assert_allclose(gradient.params, np.mean([each[0].params for each in by_hand], axis=0), rtol=1e-5)
    after = np.mean([each[1]["loss_after"] for each in by_hand])
    np.testing.assert_allclose(metrics["loss_after"], after, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_the_layout_does_not_change_training(layout):
    plain_step, plain = sinusoid_step()
    step, state = sinusoid_step(layout)
    plain, _ = jax.jit(outer.repeat(plain_step))(plain, tasks.Sinusoids(), 5)
    state, _ = jax.jit(outer.repeat(step))(state, tasks.Sinusoids(), 5)
    for ours, theirs in zip(leaves_of(state), leaves_of(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("layout", [Layout(), Layout(2, 1)], ids=str)
def test_grouping_steps_does_not_change_a_bit(layout):
    """One dispatch of seven steps, and dispatches of three, one, and three, end in the same bits."""
    step, state = sinusoid_step(layout)
    run = jax.jit(outer.repeat(step))
    together, _ = run(state, tasks.Sinusoids(), np.int32(7))
    for count in (3, 1, 3):
        state, _ = run(state, tasks.Sinusoids(), np.int32(count))
    assert all((a == b).all() for a, b in zip(leaves_of(together), leaves_of(state), strict=True))


def test_calling_twice_gives_the_same_bits_and_compiles_once():
    step, state = sinusoid_step()
    run = jax.jit(outer.repeat(step))
    first, _ = run(state, tasks.Sinusoids(), np.int32(3))
    again, _ = run(state, tasks.Sinusoids(), np.int32(3))
    run(first, tasks.Sinusoids(), np.int32(50))
    assert all((a == b).all() for a, b in zip(leaves_of(first), leaves_of(again), strict=True))
    assert run._cache_size() == 1


def test_every_step_draws_other_tasks():
    step, state = sinusoid_step(optimizer=optax.sgd(0.0))
    losses_seen = set()
    run = jax.jit(step)
    for _ in range(4):
        state, metrics = run(state, tasks.Sinusoids())
        losses_seen.add(float(metrics["loss_after"]))
    assert len(losses_seen) == 4


def test_meta_training_learns_sinusoids():
    step, state = sinusoid_step(optimizer=optax.adam(3e-3), meta_batch=16)
    run = jax.jit(outer.repeat(step), donate_argnums=0)
    state, start = run(state, tasks.Sinusoids(), np.int32(10))
    state, _ = run(state, tasks.Sinusoids(), np.int32(1000))
    state, end = run(state, tasks.Sinusoids(), np.int32(100))
    assert end["loss_after"] < 0.6 * start["loss_after"]


def test_rule_parameters_are_learned():
    step, state = sinusoid_step(rule=rules.meta_sgd(0.01))
    before = np.asarray(state.meta.rule["head"]["kernel"])
    state, _ = jax.jit(step)(state, tasks.Sinusoids())
    assert (np.asarray(state.meta.rule["head"]["kernel"]) != before).all()


def test_leaves_without_gradient_are_carried_along():
    rule = rules.sgd(0.1)
    loss = lambda params, batch, key: (jnp.mean((params["w"] * batch.x - batch.y) ** 2), {})  # noqa: E731
    params = {"w": jnp.ones(()), "count": jnp.int32(7), "key": jax.random.key(3)}
    optimizer = optax.adam(0.1)
    step = il.meta_step(il.meta_loss(loss, rule=rule, steps=1), optimizer, meta_batch=2)
    state, _ = jax.jit(step)(il.init(params, rule, optimizer, KEY), tasks.Sinusoids())
    assert state.meta.params["count"] == 7
    assert state.meta.params["w"] != 1


def test_parameters_and_optimiser_state_are_divided_among_devices():
    layout = Layout(shards=2, parameters=2)
    step, state = sinusoid_step(layout)
    whole = jax.jit(outer.repeat(sinusoid_step(Layout(shards=2))[0]))(state, tasks.Sinusoids(), 3)[0]
    divided = state._replace(meta=layout.divide(state.meta), optimizer=layout.divide(state.optimizer))
    divided, _ = jax.jit(outer.repeat(step))(divided, tasks.Sinusoids(), 3)
    kernels = [leaf for leaf in jax.tree.leaves((divided.meta, divided.optimizer)) if jnp.ndim(leaf) == 2]
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 2 for leaf in kernels)
    for ours, theirs in zip(leaves_of(divided), leaves_of(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    with pytest.raises(InnerloopError, match="divides parameters among 3 of 4 shard"):
        Layout(shards=4, parameters=3)


def test_many_dispatches_in_flight_do_not_deadlock():
    """Collectives of two shards, with a hundred dispatches queued before the first is awaited.

    With the four devices that the layout asks for (two end in a deadlock in half of all runs on two cores), in a
    process of its own, since XLA ends one whose devices have waited for each other too long.
    """
    code = "import jax; jax.config.update('jax_num_cpu_devices', 4); import test_outer; test_outer.many_dispatches()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=300)


def many_dispatches():
    step, state = sinusoid_step(Layout(shards=2))
    run = jax.jit(outer.repeat(step), donate_argnums=0)
    for _ in range(100):
        state, metrics = run(state, tasks.Sinusoids(), np.int32(2))
    assert np.isfinite(float(metrics["loss_after"]))


def test_sharpness_takes_the_gradient_uphill():
    """At θ + ρ g/|g|, with the tasks of the same step."""
    model = models.mlp(1, (4,), 1, initializer=models.glorot)
    value = il.meta_loss(losses.supervised(model, losses.squared_error), rule=rules.sgd(0.01), steps=1)
    plain, sharp = (jax.jit(il.meta_step(value, optax.sgd(1.0), meta_batch=3, radius=radius)) for radius in (0.0, 0.2))
    state, sinusoids = il.init(model.init(KEY), rules.sgd(0.01), optax.sgd(1.0), KEY), tasks.Sinusoids()
    gradient = lambda step, at: jax.tree.map(jnp.subtract, at.meta, step(at, sinusoids)[0].meta)  # noqa: E731
    first = gradient(plain, state)
    reach = 0.2 / optax.tree.norm(first)
    above = state._replace(meta=jax.tree.map(lambda x, g: x + reach * g, state.meta, first))
    expected = gradient(plain, above)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient(sharp, state), expected)


def test_a_radius_that_cannot_be_is_refused():
    with pytest.raises(InnerloopError, match="The radius of the outer step is -1"):
        il.meta_step(lambda *_: (jnp.zeros(()), {}), optax.sgd(1.0), meta_batch=1, radius=-1.0)


def test_no_steps_change_nothing():
    step, state = sinusoid_step()
    same, metrics = jax.jit(outer.repeat(step))(state, tasks.Sinusoids(), np.int32(0))
    jax.tree.map(np.testing.assert_array_equal, same.meta, state.meta)
    assert not any(map(float, metrics.values()))


def test_diagnostics_are_computed_once_for_many_steps():
    step, state = sinusoid_step()
    told = outer.diagnostics(lambda meta, task, key: {"mean": jnp.mean(task.query.x)}, num_tasks=3, layout=Layout(2))
    run = jax.jit(outer.repeat(step, told))
    after, metrics = run(state, tasks.Sinusoids(), np.int32(5))
    plain, without = jax.jit(outer.repeat(step))(state, tasks.Sinusoids(), np.int32(5))
    assert all((a == b).all() for a, b in zip(leaves_of(after), leaves_of(plain), strict=True))
    assert metrics.keys() - without.keys() == {"mean"}
    np.testing.assert_allclose(metrics["mean"], told(after, tasks.Sinusoids())["mean"], rtol=1e-6)


@pytest.mark.parametrize("products", ["auto", "row-major", "as-written"])
def test_how_products_are_computed_does_not_change_the_gradient(products):
    layout = Layout(products=products)
    assert layout.rewrites_products == (products != "as-written")  # on a CPU, where the tests run
    (step, state), (plain_step, plain) = sinusoid_step(layout), sinusoid_step(Layout(products="as-written"))
    after, expected = jax.jit(step)(state, tasks.Sinusoids())[0], jax.jit(plain_step)(plain, tasks.Sinusoids())[0]
    for ours, theirs in zip(leaves_of(after), leaves_of(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)


def test_layouts_that_cannot_be_are_refused():
    with pytest.raises(InnerloopError, match="at least 1 shard"):
        Layout(shards=0)
    with pytest.raises(InnerloopError, match=r"chunk=14 tasks at a time, but of 25 tasks each of 2 shard\(s\) has 13"):
        sinusoid_step(Layout(2, 14), meta_batch=25)
    with pytest.raises(InnerloopError, match="spreads 1 task"):
        sinusoid_step(Layout(2), meta_batch=1)
    with pytest.raises(InnerloopError, match="shards=64, but JAX sees 2 device"):
        Layout(shards=64).mesh()
    with pytest.raises(InnerloopError, match="meta-batch has 0 tasks"):
        sinusoid_step(meta_batch=0)


@pytest.mark.parametrize("layout", [Layout(2), Layout(1, 3), Layout(2, 2), Layout(2, 3)], ids=str)
def test_tasks_that_fill_up_a_layout_do_not_count(layout):
    function = lambda shared, item: (shared[0] ** 2 * item, {"item": item})  # noqa: E731
    items = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
    gradient, metrics = mean_over_tasks(function, layout)((jnp.float32(0.5),), items)
    assert (float(gradient), float(metrics["item"])) == (pytest.approx(6.2), pytest.approx(6.2))
    np.testing.assert_array_equal(map_over_tasks(lambda two, item: two * item, layout)(2.0, items), 2 * items)


def test_mean_over_tasks_averages_values_of_any_shape():
    function = lambda shared, item: (shared[0] * item, {"vector": item * jnp.arange(3.0)})  # noqa: E731
    gradient, metrics = mean_over_tasks(function, Layout(2, 1))((jnp.float32(2.0),), jnp.arange(4.0))
    assert float(gradient) == 1.5
    np.testing.assert_allclose(metrics["vector"], 1.5 * np.arange(3))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SometimesInfinite:
    """Sinusoids, of which every meta-step among `bad` holds one whose targets are not finite."""

    run_key: jax.Array
    bad: jax.Array

    def sample(self, key, num_tasks):
        task = tasks.Sinusoids().sample(key, num_tasks)
        of_step = jax.vmap(
            lambda step: jax.random.split(jax.random.fold_in(jax.random.fold_in(self.run_key, step), 2))[0]
        )
        hit = jnp.any(jnp.all(jax.random.key_data(of_step(self.bad)) == jax.random.key_data(key), axis=-1))
        return jax.tree.map(lambda leaf: jnp.where(hit, jnp.inf, leaf), task)


@pytest.mark.parametrize("layout", [Layout(), Layout(shards=2)], ids=str)
def test_a_step_whose_gradient_is_not_finite_is_skipped(layout):
    """The state is that of the steps that were taken alone, to the bit; the metrics are their means."""
    step, state = sinusoid_step(layout)
    run = jax.jit(outer.repeat(step))
    nothing, some = jnp.array([-1]), jnp.array([2, 5, 6])
    bad = SometimesInfinite(state.key, some)
    together, metrics = run(state, bad, np.int32(7))
    expected, losses_after = state, []
    for number in range(7):
        if number in some:
            expected = expected._replace(step=expected.step + 1)
        else:
            expected, single = run(expected, SometimesInfinite(state.key, nothing), np.int32(1))
            losses_after.append(float(single["loss_after"]))
    assert all((a == b).all() for a, b in zip(leaves_of(together), leaves_of(expected), strict=True))
    assert [int(metrics[name]) for name in ("skipped", "skipped_in_a_row", "last_skipped")] == [3, 2, 7]
    np.testing.assert_allclose(float(metrics["loss_after"]), np.mean(losses_after), rtol=1e-5)
    _, none_taken = run(together._replace(step=jnp.array(5, jnp.int32)), bad, np.int32(2))
    assert int(none_taken["skipped"]) == 2
    assert np.isnan(float(none_taken["loss_after"]))


def test_the_task_for_which_a_step_is_skipped_is_found():
    _, state = sinusoid_step()
    model = models.mlp(1, (16,), 1)
    value = il.meta_loss(losses.supervised(model, losses.squared_error), rule=rules.sgd(0.01), steps=2)
    bad = SometimesInfinite(state.key, jnp.array([4]))
    finite, drawn = jax.jit(outer.finite_tasks(value, meta_batch=6))(state._replace(step=jnp.array(4)), bad)
    assert finite.tolist() == [True, True, False, True, True, True]
    assert np.isinf(drawn.support.y).all(axis=(1, 2)).tolist() == (~finite).tolist()


def test_without_the_guard_a_step_is_what_its_gradient_says():
    _, state = sinusoid_step()
    model = models.mlp(1, (16,), 1)
    value = il.meta_loss(losses.supervised(model, losses.squared_error), rule=rules.sgd(0.01), steps=2)
    step = il.meta_step(value, optax.adam(1e-2), meta_batch=6, skip_nonfinite=False)
    after, metrics = jax.jit(step)(state, SometimesInfinite(state.key, jnp.array([0])))
    assert "skipped" not in metrics
    assert not np.isfinite(jax.tree.leaves(after.meta)[0]).all()
