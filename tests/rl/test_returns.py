"""Returns, baselines and advantages against the obvious loops; padding and the scale of rewards do not matter."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import InnerloopError, models
from innerloop.rl import Rollouts, advantages, returns

LENGTHS = (3, 1, 4)
HORIZON = 4


def rollouts(*, one_row, seed=0, padding=0, scale=1.0):
    """Three episodes of one task, one in each row or all in one; the last is broken off by the horizon."""
    rng = np.random.default_rng(seed)
    steps = []
    for length in LENGTHS:
        last = np.arange(length) == length - 1
        steps.append(
            Rollouts(
                observation=rng.normal(size=(length, 2)),
                action=rng.normal(size=(length, 1)),
                reward=scale * rng.normal(size=length),
                info={"log_prob": rng.normal(size=length)},
                t=np.arange(length),
                mask=np.ones(length, bool),
                terminated=last & (length < HORIZON),
                truncated=last & (length == HORIZON),
                broken=np.zeros(length, bool),
                next_observation=rng.normal(size=(length, 2)),
            )
        )
    if one_row:
        steps = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *steps)]
    width = max(len(row.t) for row in steps) + padding

    def fill(leaf):
        return np.concatenate([leaf, np.zeros((width - len(leaf), *leaf.shape[1:]), leaf.dtype)])

    return jax.tree.map(lambda *rows: jnp.stack([fill(row) for row in rows]), *steps)


def steps_of(values, batch):
    return np.asarray(values)[np.asarray(batch.mask)]


def brute_force(batch, value, discount, trace, bootstrap):
    """GAE as the sum over all later errors of the episode."""
    results = []
    flat = jax.tree.map(lambda leaf: steps_of(leaf, batch), batch)
    starts = [*np.flatnonzero(flat.t == 0), len(flat.t)]
    for start, stop in pairwise(starts):
        values = [value(flat.observation[i], flat.t[i]) for i in range(start, stop)]
        rest = value(flat.next_observation[stop - 1], flat.t[stop - 1] + 1)
        values.append(rest if bootstrap and flat.truncated[stop - 1] else 0.0)
        errors = [flat.reward[start + i] + discount * values[i + 1] - values[i] for i in range(stop - start)]
        results += [
            sum((discount * trace) ** (j - i) * errors[j] for j in range(i, len(errors))) for i in range(len(errors))
        ]
    return np.array(results)


@pytest.mark.parametrize("one_row", [True, False])
@pytest.mark.parametrize("trace", [1.0, 0.9])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_advantages_are_those_of_the_loop_over_each_episode(x64, one_row, trace, bootstrap):
    value = lambda observation, t: observation[..., 0] - 0.3 * observation[..., 1] + 0.1 * t  # noqa: E731
    batch = rollouts(one_row=one_row, padding=2)
    judge = advantages(lambda rollouts, returns: value, discount=0.9, trace=trace, bootstrap=bootstrap)
    expected = brute_force(batch, value, 0.9, trace, bootstrap)
    experience = jax.jit(judge)(batch)
    centred = (expected - expected.mean()) / (expected.std() + 1e-8)
    np.testing.assert_allclose(steps_of(experience.advantage, batch), centred, atol=1e-12)
    assert not experience.advantage[~batch.mask].any()
    assert experience.scale == pytest.approx(expected.std())


def test_returns_are_cut_at_the_end_of_an_episode(x64):
    batch = rollouts(one_row=True)
    expected = brute_force(batch, lambda observation, t: 0.0, 0.9, 1.0, False)
    found = returns.discounted_returns(batch.reward, batch.last, 0.9)
    np.testing.assert_allclose(steps_of(found, batch), expected, atol=1e-12)


def test_neither_padding_nor_the_arrangement_in_rows_changes_anything(x64):
    judge = jax.jit(advantages())
    plain = judge(rollouts(one_row=True))
    for other in ({"one_row": True, "padding": 5}, {"one_row": False, "padding": 3}):
        batch = rollouts(**other)
        judged = judge(batch)
        for name in ("advantage", "reward", "value"):
            found = steps_of(getattr(judged, name), batch)
            np.testing.assert_allclose(found, getattr(plain, name).ravel(), atol=1e-9)


def test_the_scale_of_rewards_does_not_matter():
    judge, bare = jax.jit(advantages()), jax.jit(advantages(returns.no_baseline()))
    plain, scaled = (judge(rollouts(one_row=False, scale=scale)) for scale in (1.0, 10.0))
    np.testing.assert_allclose(plain.advantage, scaled.advantage, atol=2e-3)  # the ridge, and float32
    plain, scaled = (bare(rollouts(one_row=False, scale=scale)) for scale in (1.0, 10.0))
    np.testing.assert_allclose(plain.advantage, scaled.advantage, atol=1e-5)
    np.testing.assert_allclose(plain.reward, scaled.reward, rtol=1e-4, atol=1e-6)


def many_steps(seed=0, count=400):
    rng = np.random.default_rng(seed)
    t = np.tile(np.arange(100), (count // 100, 1))
    zeros = np.zeros(t.shape, bool)
    observation = 4 * rng.normal(size=(*t.shape, 2))
    batch = Rollouts(observation, observation, 1.0 * t, {}, t, ~zeros, zeros, t == 99, zeros)
    return batch, rng.normal(size=t.shape) - 0.1 * t


def ridge_by_numpy(batch, target):
    state, tau = np.clip(batch.observation, -10, 10).reshape(-1, 2), batch.t.reshape(-1, 1) / 100
    features = np.concatenate([state, state**2, tau, tau**2, tau**3, np.ones_like(tau)], axis=1)
    system = np.concatenate([features, np.sqrt(1e-5) * np.eye(8)])
    weights = np.linalg.lstsq(system, np.concatenate([target.ravel(), np.zeros(8)]), rcond=None)[0]
    return (features @ weights).reshape(batch.t.shape)


def test_the_baseline_is_the_ridge_regression_of_numpy():
    batch, target = many_steps()
    expected = ridge_by_numpy(batch, target)
    value = returns.linear_features()(jax.tree.map(jnp.asarray, batch), jnp.asarray(target))
    np.testing.assert_allclose(value(jnp.asarray(batch.observation), jnp.asarray(batch.t)), expected, atol=2e-4)


def test_the_baseline_of_many_tasks_at_once_is_that_of_each(x64):
    pairs = [many_steps(seed) for seed in (1, 2, 3)]
    batches, targets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    fitted = jax.vmap(lambda batch, target: returns.linear_features()(batch, target)(batch.observation, batch.t))
    for found, pair in zip(fitted(batches, targets), pairs, strict=True):
        np.testing.assert_allclose(found, ridge_by_numpy(*pair), atol=1e-9)


def test_a_value_network_fits_its_batch_and_carries_nothing_over():
    batch, target = jax.tree.map(jnp.asarray, many_steps())
    fit = returns.value_network(
        models.mlp(3, (32,), 1, initializer=models.glorot), steps=200, optimizer=optax.adam(1e-2)
    )
    run = jax.jit(lambda batch, target: fit(batch, target)(batch.observation, batch.t))
    value = run(batch, target)
    residual = jnp.mean((value - target) ** 2) / target.var()
    assert residual < 0.2
    run(batch, -5 * target)
    assert (run(batch, target) == value).all()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InnerloopError, match="discount is 2"):
        advantages(discount=2.0)
    with pytest.raises(InnerloopError, match="ridge is 0"):
        returns.linear_features(0.0)
    with pytest.raises(InnerloopError, match="next_observation=True"):
        advantages(bootstrap=True)(rollouts(one_row=True)._replace(next_observation=None))
