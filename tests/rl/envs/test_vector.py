"""Any gymnasium environment under the common interface, its task applied in any of three ways."""

import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl import HostEnv, envs

gymnasium = pytest.importorskip("gymnasium")

GRAVITY = envs.Uniform(5.0, 15.0)


def pendulum(apply, **options):
    return envs.SyncVector(
        lambda: gymnasium.make("Pendulum-v1"), GRAVITY, apply, **{"num_envs": 3, "horizon": 200, **options}
    )


WAYS = {
    "attribute": lambda env, task: setattr(env.unwrapped, "g", float(task)),
    "constructor": lambda env, task: gymnasium.make("Pendulum-v1", g=float(task)),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_copy_has_its_own_task(way):
    env = pendulum(WAYS[way])
    assert isinstance(env, HostEnv)
    assert (env.name, env.observation_size, env.action_size, env.discrete) == ("Pendulum-v1", 3, 1, False)
    tasks, seeds = np.array([6.0, 9.0, 12.0]), np.array([3, 3, 4])
    alone = [gymnasium.make("Pendulum-v1", g=float(task)) for task in tasks]
    observation = env.reset(tasks, seeds)
    expected = [each.reset(seed=int(seed))[0] for each, seed in zip(alone, seeds, strict=True)]
    np.testing.assert_array_equal(observation, np.stack(expected))
    for action in np.random.default_rng(0).normal(size=(20, 3, 1)):
        step = env.step(tasks, action)
        answers = [each.step(2 * np.clip(a, -1, 1)) for each, a in zip(alone, action, strict=True)]
        np.testing.assert_allclose(step.observation, [each[0] for each in answers], atol=1e-6)
        np.testing.assert_allclose(step.reward, [each[1] for each in answers], atol=1e-6)
    env.close()


def test_options_of_reset():
    name = "innerloop/Navigation2D-v0"
    env = envs.SyncVector(
        lambda: gymnasium.make(name),
        envs.ENVIRONMENTS["Navigation2D"].tasks,
        lambda env, task: {"task": task},
        horizon=9,
    )
    task = np.array([[0.3, 0.4]])
    env.reset(task, np.array([0]))
    assert env.step(task, np.zeros((1, 2))).reward[0] == pytest.approx(-0.5)


def test_choices_and_the_environments_own_limit():
    env = envs.SyncVector(
        lambda: gymnasium.make("CartPole-v1", max_episode_steps=4),
        envs.Uniform(0.4, 0.6),
        lambda env, task: setattr(env.unwrapped, "length", float(task)),
        num_envs=2,
        horizon=100,
    )
    assert (env.discrete, env.action_size, env.observation_size) == (True, 2, 4)
    tasks = np.array([0.4, 0.6])
    env.reset(tasks, np.array([0, 1]))
    steps = [env.step(tasks, np.array([i % 2, 1 - i % 2])) for i in range(4)]
    assert [step.truncated.tolist() for step in steps] == [[False] * 2] * 3 + [[True] * 2]
    one = env.reset(tasks[1:], np.array([1]), np.array([1]))
    assert one.shape == (1, 4)
    assert not env.step(tasks[1:], np.array([0]), np.array([1])).truncated.any()


def test_unbounded_actions_are_left_as_they_are():
    class Line(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Box(np.array([-np.inf, 1.0]), np.array([np.inf, 5.0]), dtype=np.float64)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            self.seen = action
            return np.zeros(1, np.float32), 0.0, False, False, {}

    line = Line()
    env = envs.SyncVector(lambda: line, GRAVITY, lambda env, task: None, horizon=5)
    assert env.name == "Line"
    env.reset(np.array([9.0]), np.array([0]))
    for given, wanted in (([7.0, 0.0], [7.0, 3.0]), ([-7.0, -9.0], [-7.0, 1.0])):
        env.step(np.array([9.0]), np.array([given]))
        np.testing.assert_allclose(line.seen, wanted)


def test_mistakes():
    with pytest.raises(InnerloopError, match="SyncVector cannot have horizon=0"):
        pendulum(WAYS["attribute"], horizon=0)
    env = pendulum(WAYS["attribute"])
    tasks = np.array([6.0, 9.0, 12.0])
    with pytest.raises(InnerloopError, match="3 copies of Pendulum-v1 were given 2 seeds; give one for each"):
        env.reset(tasks, np.arange(2))
    env.reset(tasks, np.arange(3))
    with pytest.raises(InnerloopError, match=r"reset with the task 9.0, but is stepped with 8.0"):
        env.step(np.array([6.0, 8.0, 12.0]), np.zeros((3, 1)))

    class Odd(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.MultiBinary(3)

    with pytest.raises(InnerloopError, match=r"Odd has the action space MultiBinary\(3\)"):
        envs.SyncVector(Odd, GRAVITY, WAYS["attribute"], horizon=5)
