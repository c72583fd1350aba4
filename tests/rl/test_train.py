"""One meta-iteration: the updates asked for are taken, the curvature is exact, and every combination of values runs."""

from functools import cache, partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import FirstOrder, InnerloopError, Layout, Meta, Mixed, PerStep, adapt, models, rl, rules
from innerloop.core.adjoints import Truncated
from innerloop.rl import train
from innerloop.rl.problem import outer_problem
from rl.countdown import HostCountdown
from rl.wanderer import Wanderer

ENV = rl.envs.make("Navigation2D")
MODEL = models.mlp(2, (6,), 2, activation=jnp.tanh, initializer=models.glorot)
POLICY = rl.policies.for_environment(ENV, MODEL)
RULE = rules.sgd(0.1)
KEY = jax.random.key(0)
FEW = rl.Sampling(episodes=2)
ROW = rl.ESTIMATORS["log-likelihood"]


def run(env=ENV, policy=POLICY, *, rule=RULE, outer=None, iterations=1, **options):
    outer = outer or rl.TrustRegion()
    step = rl.train_step(env, policy, rule=rule, num_tasks=3, sampling=FEW, outer=outer, **options)
    state = start = rl.init(policy.init(KEY), rule, outer, KEY)
    for _ in range(iterations):
        state, metrics = step(state)
    return start, state, metrics


def moved(start, state):
    return [(one != two).any() for one, two in zip(*map(jax.tree.leaves, (start.meta, state.meta)), strict=True)]


@pytest.mark.slow
def test_the_trust_region_moves_everything_and_keeps_its_bound():
    start, state, metrics = run(inner="loaded-dice")
    assert metrics["returns"].shape == (2,)
    assert metrics["episodes"] == 2
    assert metrics["accepted"] == 1
    assert 0 < metrics["kl"] <= 0.01
    assert metrics["loss_after"] < metrics["loss_before"]
    assert all(moved(start, state))
    assert state.step == 1


def test_the_cap_is_kept_in_training():
    outer = rl.TrustRegion(divergence="initial", cap=1e-3, curvature_every=4)
    step = rl.train_step(ENV, POLICY, rule=RULE, num_tasks=3, sampling=FEW, outer=outer)
    state = rl.init(POLICY.init(KEY), RULE, outer, KEY)
    for _ in range(3):
        state, metrics = step(state)
        assert metrics["accepted"] == 1
        assert metrics["tries"] > 1
        assert 0.0005 < metrics["kl"] <= 0.001
        assert metrics["kl_initial"] < 0.01


class Overflowing(rl.TrustRegion):
    """Overflows at every update."""

    def update(self, problem, params, state):
        found, kept, metrics = super().update(problem, params, state)
        return jax.tree.map(lambda leaf: leaf * jnp.inf * 0, found), kept, metrics


def test_an_update_that_is_not_finite_is_left_out_and_counted():
    start, state, metrics = run(outer=Overflowing())
    assert not any(moved(start, state))
    assert metrics["skipped"] == 1
    assert state.step == 1
    assert run()[2]["skipped"] == 0


def test_epochs_with_clipping_penalty_and_exploration_lower_the_loss():
    outer = rl.ppo(optax.adam(1e-3), epochs=3)
    _, state, metrics = run(outer=outer, inner="e-maml", layout=Layout(chunk=2), iterations=2)
    assert metrics["loss_after"] < metrics["loss_before"]
    assert state.optimizer[0].count == 6


def test_step_sizes_are_learned_by_the_first_order_policy_gradient_too():
    outer = rl.Descent(optax.sgd(0.1))
    start, state, _ = run(outer=outer, rule=rules.meta_sgd(0.1), adjoint=FirstOrder())
    assert all(moved(start, state))


def test_without_inner_updates_one_policy_is_trained_for_all_tasks():
    _, _, metrics = run(steps=0)
    assert metrics["returns"].shape == (1,)


def test_environments_on_the_host():
    env = HostCountdown(6)
    policy = rl.policies.for_environment(env, hidden=(4,))
    _, state, metrics = run(env, policy, outer=rl.Descent(optax.sgd(0.1)), layout=Layout(shards=2), iterations=2)
    assert np.isfinite(metrics["returns"]).all()
    assert state.step == 2


def experience(steps):
    return experience_in(steps, jax.config.jax_enable_x64)


@cache
def experience_in(steps, double):
    meta = Meta(POLICY.init(KEY), ())
    collected = train._adaptation(ENV, POLICY, RULE, FEW, steps, ROW, rl.advantages(), Layout())
    return meta, jax.jit(collected)(meta, ENV.tasks.sample(KEY, 3), KEY).experience


def test_a_share_of_the_tasks_adapts_to_the_bits_that_all_together_give():
    """Several processes each step and judge their own tasks: how many these are must change nothing."""
    env = Wanderer(24)
    policy = rl.policies.for_environment(env, hidden=(4,))
    tasks, meta = np.asarray(env.tasks.sample(KEY, 12)), Meta(policy.init(KEY), RULE.init(None))
    run = train._adaptation(env, policy, RULE, FEW, 1, ROW, rl.advantages(), Layout(chunk=1))
    together, share = run(meta, tasks, KEY), run(meta, tasks[6:], KEY, 6)
    for all_of_it, part in zip(jax.tree.leaves(together), jax.tree.leaves(share), strict=True):
        np.testing.assert_array_equal(all_of_it[6:], part)


def test_all_tasks_at_once_adapt_as_each_alone():
    meta, data = experience(2)
    early = jax.tree.map(lambda leaf: leaf[:, :2], data)
    step = partial(adapt, ROW.loss(POLICY), meta, key=KEY, rule=RULE, steps=2)
    one = jax.jit(lambda batches: step(support=PerStep(batches)).params)
    together = jax.jit(jax.vmap(one))(early)
    for task in range(3):
        alone = one(jax.tree.map(lambda leaf, task=task: leaf[task], early))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[task], b, rtol=1e-4, atol=1e-6)


def test_the_last_batch_is_drawn_by_the_policy_that_all_updates_made():
    meta, data = experience(2)

    @jax.jit
    def drawn_by(task):
        early = PerStep(jax.tree.map(lambda leaf: leaf[:2], task))
        params = adapt(ROW.loss(POLICY), meta, early, KEY, rule=RULE, steps=2).params
        return POLICY.log_prob(POLICY.distribution(params, task.observation[2]), task.action[2])

    for task in range(3):
        batch = jax.tree.map(lambda leaf, task=task: leaf[task], data)
        present = np.asarray(batch.weight[2]) > 0
        found, kept = (np.asarray(each)[present] for each in (drawn_by(batch), batch.info["log_prob"][2]))
        np.testing.assert_allclose(found, kept, atol=1e-4)


@pytest.mark.parametrize(
    ("adjoint", "steps", "layout", "settings"),
    [
        (Mixed(), 1, Layout(), {}),
        (Mixed(), 1, Layout(chunk=1), {"curvature_tasks": 2, "curvature_every": 2}),
        pytest.param(Mixed(), 1, Layout(), {"inner": "dice", "curvature_every": 2}, marks=pytest.mark.slow),
        (Mixed(), 2, Layout(), {"divergence": "initial"}),
        (Mixed(), 1, Layout(), {"divergence": "initial", "curvature_tasks": 2, "curvature_every": 3}),
        pytest.param(Mixed(), 2, Layout(chunk=1), {"recompute": True}, marks=pytest.mark.slow),
        pytest.param(Truncated(1), 2, Layout(chunk=2), {}, marks=pytest.mark.slow),
        (FirstOrder(), 1, Layout(), {}),
    ],
    ids=[
        "mixed",
        "mixed, of two tasks, every second step",
        "mixed, every second step after adaptation on all of them",
        "initial",
        "initial, of two tasks, every third step",
        "mixed, two steps, recomputed",
        "truncated",
        "first order",
    ],
)
def test_the_curvature_is_the_hessian_of_the_mean_divergence(x64, adjoint, steps, layout, settings):
    meta, data = experience(steps)
    row = rl.ESTIMATORS[settings.get("inner", "log-likelihood")]
    outer = rl.TrustRegion(**{name: value for name, value in settings.items() if name != "inner"})
    problem = problem_of(meta, data, outer, steps=steps, row=row, adjoint=adjoint, layout=layout)
    vector, back = jax.flatten_util.ravel_pytree(meta)
    product = jax.jit(lambda at, v: jax.flatten_util.ravel_pytree(problem.curvature(at)(back(v)))[0])
    some_of = jnp.eye(vector.size)[:4]
    rows = jax.lax.map(lambda v: product(meta, v), some_of)
    some = jax.tree.map(lambda leaf: leaf[: outer.curvature_tasks or None], data)
    every = outer.curvature_every
    slope = jax.grad(lambda v: mean_divergence(back(v), some, steps, adjoint, outer.divergence, every, meta, row))
    dense = jax.jit(jax.vmap(lambda v: jax.jvp(slope, (vector,), (v,))[1]))(some_of)  # rows of the Hessian
    np.testing.assert_allclose(rows, dense, atol=1e-9)
    # And the values that the line search goes by are the same divergences.
    near = back(vector + 0.01)
    found = jax.jit(problem.evaluate)(near)
    np.testing.assert_allclose(
        found.adapted, mean_divergence(near, data, steps, adjoint, "adapted", row=row), rtol=1e-9
    )
    np.testing.assert_allclose(found.initial, mean_divergence(near, data, steps, adjoint, "initial"), rtol=1e-9)


def problem_of(meta, data, outer, *, steps=1, rule=RULE, row=ROW, adjoint=Mixed(), layout=Layout()):
    of = outer_problem(POLICY, rule, steps, row, outer, adjoint, layout)
    return of(jax.tree.map(lambda leaf: None, meta), data, jnp.zeros(3), KEY)


def mean_divergence(meta, data, steps, adjoint, which, every=1, begin=None, row=ROW):
    """Over every so-manyth step of all tasks, after adaptation or before; from what acted, or where `begin` leads."""
    taken, batch = (steps, steps) if which == "adapted" else (0, 0)
    thinned = jax.tree.map(lambda leaf: leaf[:, :, :, ::every] if leaf.ndim > 3 else leaf, data)

    def one(early, last):
        early, last = (
            jax.tree.map(lambda leaf, part=part: leaf[part], task)
            for task, part in ((early, slice(taken)), (last, batch))
        )

        def distribution(meta):
            adapted = adapt(row.loss(POLICY), meta, PerStep(early), KEY, rule=RULE, steps=taken, adjoint=adjoint)
            return POLICY.distribution(adapted.params, last.observation)

        before = last.info if begin is None else distribution(begin)
        return (POLICY.kl(before, distribution(meta)) * last.weight).sum()

    return jax.vmap(one)(thinned if row.stepwise else data, thinned).sum() / thinned.weight[:, batch].sum()


def test_without_inner_updates_both_divergences_are_one(x64):
    meta, data = experience(0)
    one, other = (problem_of(meta, data, rl.TrustRegion(divergence=which), steps=0) for which in ("adapted", "initial"))
    vector = jax.tree.map(jnp.ones_like, meta)
    products = [jax.jit(lambda at, v, p=p: p.curvature(at)(v))(meta, vector) for p in (one, other)]
    for a, b in zip(*map(jax.tree.leaves, products), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    found = jax.jit(one.evaluate)(vector)
    assert found.adapted == found.initial > 0


def test_the_initial_divergence_has_no_curvature_for_what_the_rule_learns():
    outer = rl.TrustRegion(divergence="initial")
    with pytest.raises(InnerloopError, match="no curvature for what the inner rule learns"):
        run(outer=outer, rule=rules.meta_sgd(0.1))
    _, _, metrics = run(outer=outer, rule=rules.sgd(0.1), inner="lvc")
    assert 0 < metrics["kl_initial"] <= 0.01
    assert metrics["kl"] > metrics["kl_initial"]
    assert {"cg_residual", "step_length", "log_std", "tries"} <= metrics.keys()


def test_returns_after_each_update_on_given_tasks():
    meta = Meta(POLICY.init(KEY), ())
    evaluate = partial(rl.evaluate, ENV, POLICY, meta, jnp.asarray([[0.1, 0.2], [0.3, 0.4]]), KEY, sampling=FEW)
    found = evaluate(rule=rl.smaller_later(RULE, 0.5), steps=2)
    assert found.returns.shape == (2, 3)
    assert found.params["log_std"].shape == (2, 3, 2)
    assert (found.params["log_std"][:, 0] == 0).all()
    assert (found.broken == 0).all()
    assert (found.returns[:, 0] == evaluate(rule=RULE, steps=0).returns[:, 0]).all()
    assert (found.returns < 0).all()


def test_later_updates_are_smaller():
    rule = rl.smaller_later(rules.sgd(0.5), 0.5)
    loss = lambda params, batch, key: (params, {})  # noqa: E731
    adapted = adapt(loss, Meta(jnp.zeros(()), ()), (), KEY, rule=rule, steps=3, trajectory=True)
    assert adapted.trajectory.tolist() == [0, -0.5, -0.75, -1]
    with pytest.raises(InnerloopError, match=r"multiplied by -0.5"):
        rl.smaller_later(RULE, -0.5)


def test_bad_input_is_refused():
    with pytest.raises(InnerloopError, match="num_tasks=0"):
        rl.train_step(ENV, POLICY, rule=RULE, num_tasks=0, sampling=FEW)
    with pytest.raises(InnerloopError, match=r"curvature_tasks=4 tasks, but an iteration has num_tasks=3"):
        run(outer=rl.TrustRegion(curvature_tasks=4))
    with pytest.raises(InnerloopError, match="no inner estimator"):
        rl.train_step(ENV, POLICY, rule=RULE, num_tasks=1, sampling=FEW, inner="maml")
    with pytest.raises(InnerloopError, match="epochs=0"):
        rl.Descent(optax.sgd(0.1), epochs=0)
