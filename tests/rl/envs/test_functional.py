"""Functional environments in JAX: the task is an argument of the reward, and all of an iteration is one program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError, rl, rules
from innerloop.rl import JaxEnv
from innerloop.rl.envs import Directions, Functional, Uniform

KEY = jax.random.key(0)


class State(NamedTuple):
    obs: jax.Array
    done: jax.Array


class Slide:
    """A point on a line that is pushed; it falls off beyond 1. As Brax has it."""

    observation_size, action_size = 1, 1

    def reset(self, rng):
        return State(0.01 * jax.random.normal(rng, (1,)), jnp.zeros(()))

    def step(self, state, action):
        obs = state.obs + 0.1 * action
        return State(obs, (jnp.abs(obs[0]) > 1).astype(jnp.float32))


def reward(direction, state, action, after):
    return direction * (after.obs - state.obs)[0] - 0.01 * jnp.sum(action**2)


ENV = Functional(Slide(), Directions.released(), reward, horizon=30, name="Slide")


def test_the_task_is_an_argument_of_the_reward():
    assert isinstance(ENV, JaxEnv)
    state, _ = ENV.reset(jnp.ones(()), KEY)
    found = [ENV.step(jnp.asarray(task), state, jnp.array([5.0]))[1] for task in (1.0, -1.0)]
    np.testing.assert_allclose([step.reward for step in found], [0.09, -0.11], rtol=1e-5)  # the action is clipped to 1
    np.testing.assert_array_equal(found[0].observation, found[1].observation)


def test_episodes_end_where_it_is_done_and_an_iteration_is_one_program():
    policy = rl.policies.for_environment(ENV, hidden=(4,))
    outer = rl.TrustRegion()
    step = rl.train_step(ENV, policy, rule=rules.sgd(0.1), num_tasks=3, sampling=rl.Sampling(episodes=4), outer=outer)
    _, metrics = step(rl.init(policy.init(KEY), rules.sgd(0.1), outer, KEY))
    assert np.isfinite(metrics["returns"]).all()
    assert metrics["accepted"] == 1
    always = lambda params, observation, key: (params + jnp.ones(1), {})  # noqa: E731
    rollouts = rl.collect(ENV, always, jnp.zeros((1, 1)), jnp.ones(1), KEY, episodes=1)
    assert rollouts.terminated.sum() == 1
    assert rollouts.mask.sum() in (10, 11)


def test_mistakes():
    with pytest.raises(InnerloopError, match="Nothing is a dict, which lacks reset"):
        Functional({}, Uniform(0.0, 1.0), reward, horizon=3, name="Nothing")
    with pytest.raises(InnerloopError, match="Slide cannot have horizon=0"):
        Functional(Slide(), Uniform(0.0, 1.0), reward, horizon=0, name="Slide")
    env = Functional(Slide(), Uniform(0.0, 1.0), lambda task, state, action, after: after.obs, horizon=3, name="Slide")
    with pytest.raises(InnerloopError, match=r"reward of Slide has shape \[1\]; it must be one number"):
        env.step(jnp.ones(()), env.reset(jnp.ones(()), KEY)[0], jnp.zeros(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Brax's own, and those of what it is made of
def test_half_cheetah_of_brax_compiles_wholly(tmp_path, monkeypatch):
    brax_envs = pytest.importorskip("brax.envs")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes down there that the model is old

    def forward(direction, state, action, after):
        return direction * after.metrics["x_velocity"] - 0.05 * jnp.sum(action**2)

    env = Functional(
        brax_envs.get_environment("halfcheetah", backend="spring"), Directions.released(), forward, horizon=3
    )
    policy = rl.policies.for_environment(env, hidden=(4,))
    outer = rl.TrustRegion()
    step = rl.train_step(env, policy, rule=rules.sgd(0.1), num_tasks=2, sampling=rl.Sampling(episodes=2), outer=outer)
    _, metrics = step(rl.init(policy.init(KEY), rules.sgd(0.1), outer, KEY))
    assert np.isfinite(metrics["returns"]).all()
