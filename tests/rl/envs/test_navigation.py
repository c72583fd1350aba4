"""2D navigation equals a few lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl import JaxEnv, envs

KEY = jax.random.key(0)


def by_hand(goal, actions, reward):
    """Positions, rewards and ends of one episode."""
    position, result = np.zeros(2), []
    for action in actions:
        position = position + np.clip(action, -1, 1) * 0.1
        distance = np.hypot(*(position - goal))
        arrived = abs(position[0] - goal[0]) < 0.01 and abs(position[1] - goal[1]) < 0.01
        earned = {"distance": -distance, "squared": -(distance**2), "sparse": (1 - distance) * (distance <= 0.1)}
        result.append((position, earned[reward], arrived and reward != "sparse"))
    return [np.array(each) for each in zip(*result, strict=True)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reward", ["distance", "squared", "sparse"])
def test_an_episode_by_hand(reward):
    env = envs.Navigation2D(reward=reward)
    assert isinstance(env, JaxEnv)
    rng = np.random.default_rng(0)
    goals = np.array([[0.3, -0.2], [0.095, 0.1], [0.0, 0.005]])
    noise = rng.normal(size=(3, 40, 2))
    aim = np.stack([np.where(np.arange(40)[:, None] % 4 == 3, noise[i], 3 * goal) for i, goal in enumerate(goals)])

    def episode(goal, actions):
        def body(state, action):
            state, step = env.step(goal, state, action)
            return state, step

        state, observation = env.reset(goal, KEY)
        return observation, jax.lax.scan(body, state, actions)[1]

    observation, step = jax.jit(jax.vmap(episode))(goals, aim)
    assert (observation == 0).all()
    for i, goal in enumerate(goals):
        position, earned, arrived = by_hand(goal, aim[i], reward)
        np.testing.assert_allclose(step.observation[i], position, atol=1e-14)
        np.testing.assert_allclose(step.reward[i], earned, atol=1e-14)
        np.testing.assert_array_equal(step.terminated[i], arrived)
    assert step.terminated.any() == (reward != "sparse")
    assert not step.truncated.any()


def test_arriving_is_a_box_not_a_disc():
    env = envs.Navigation2D()
    for offset, arrived in (([0.0099, 0.0099], True), ([0.0, 0.0101], False)):
        _, step = env.step(jnp.array(offset), jnp.zeros(2), jnp.zeros(2))
        assert bool(step.terminated) == arrived


def test_an_oracle_also_sees_the_goal():
    env = envs.Navigation2D(oracle=True)
    goal = jnp.array([0.25, -0.5])
    state, observation = env.reset(goal, KEY)
    np.testing.assert_array_equal(observation, [0, 0, 0.25, -0.5])
    _, step = env.step(goal, state, jnp.array([0.5, 0.0]))
    np.testing.assert_allclose(step.observation, [0.05, 0, 0.25, -0.5])
    assert env.observation_size == 4


def test_mistakes():
    with pytest.raises(InnerloopError, match="no reward 'cubed'; choose distance, squared or sparse"):
        envs.make("Navigation2D", reward="cubed")
    with pytest.raises(InnerloopError, match=r"radius of a sparse reward is -0.1"):
        envs.make("Navigation2DSparse", radius=-0.1)
