"""Environments that do not keep to gymnasium's API, each refused in one sentence with its name."""

import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl.envs import SyncVector, Uniform

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces
TASKS = Uniform(0.0, 1.0)


class Line(gymnasium.Env):
    """A point on a line. What it answers can be made wrong."""

    def __init__(self, observation=0.5, reward=0.0, answer=None, start=None, space=None, actions=None):
        self.observation, self.reward, self.answer, self.start = observation, reward, answer, start
        self.observation_space = space or spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = actions or spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.goal = 0.0

    def reset(self, *, seed=None, options=None):
        return self.start or (np.zeros(1), {})

    def step(self, action):
        observation = np.full(1, self.observation) if np.isscalar(self.observation) else self.observation
        return self.answer or (observation, self.reward, False, False, {})


class Wrapped(gymnasium.Wrapper):
    pass


class Telling(gymnasium.Wrapper):
    """A wrapper with a goal of its own, which it hands on."""

    def __init__(self, env):
        super().__init__(env)
        self.goal = 0.0


def vector(make=Line, apply=lambda env, task: None, num_envs=2):
    return SyncVector(make, TASKS, apply, num_envs=num_envs, horizon=5)


def played(**wrong):
    env = vector(lambda: Line(**wrong))
    env.reset(np.zeros(2), np.arange(2))
    return env.step(np.zeros(2), np.zeros((2, 1)))


def refused(call, *parts):
    with pytest.raises(InnerloopError) as refusal:
        call()
    said = str(refusal.value)
    assert all(part in said for part in ("Line", *parts)), said
    assert "\n" not in said
    assert said.endswith(".")


def test_one_that_keeps_to_it_is_taken():
    assert played().observation.shape == (2, 1)
    assert played(reward=np.float64(1)).reward.tolist() == [1, 1]
    assert played(observation=np.ones(1) + 1e-7).observation == pytest.approx(np.ones((2, 1)))  # beyond it by rounding
    assert np.isnan(played(observation=np.nan).observation).all()  # ends the episode, see `collect`


def test_the_same_object_twice():
    one = Line()
    refused(lambda: vector(lambda: one), "same", "twice")
    refused(lambda: vector(lambda: Wrapped(one)), "same", "twice")
    env = vector(apply=lambda env, task: one)
    refused(lambda: env.reset(np.zeros(2), np.arange(2)), "same", "twice")


def test_what_is_no_environment():
    with pytest.raises(InnerloopError, match="returned a dict"):
        vector(dict)


def test_answers_of_an_older_api():
    refused(lambda: played(answer=(np.zeros(1), 0.0, False, {})), "tuple of 4", "terminated and truncated")
    refused(lambda: played(start=np.ones(1)), "ndarray of shape [1]", "(observation, info)")


@pytest.mark.parametrize("reward", [np.zeros(1), [0.0], "much", None])
def test_a_reward_that_is_not_one_number(reward):
    refused(lambda: played(reward=reward), "reward", "one number")


def test_an_observation_outside_of_its_space():
    refused(lambda: played(observation=1.5), "number [0] is 1.5", "-1 to 1")
    refused(lambda: played(observation=np.zeros(3)), "float64[3]", "float32[1]")
    choice = {"space": spaces.Discrete(3), "start": (np.int64(0), {})}
    refused(lambda: played(observation=np.int64(7), **choice), "7", "Discrete(3)")


def test_a_task_that_stays_on_a_wrapper():
    def on_the_wrapper(env, task):
        env.goal = float(task)

    env = vector(lambda: Wrapped(Line()), on_the_wrapper)
    refused(lambda: env.reset(np.ones(2), np.arange(2)), "'goal'", "wrapper Wrapped", "env.unwrapped")
    vector(lambda: Telling(Line()), on_the_wrapper).reset(np.ones(2), np.arange(2))  # it has one of its own
    vector(Line, on_the_wrapper).reset(np.ones(2), np.arange(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"actions": spaces.MultiDiscrete([2, 3])},
        {"actions": spaces.Box(-1, 1, (2, 2))},
        {"space": spaces.Sequence(spaces.Discrete(2))},
    ],
    ids=["several choices", "a matrix", "a sequence"],
)
def test_spaces_that_it_cannot_take(wrong):
    refused(lambda: vector(lambda: Line(**wrong)), "space", "wrap it in a gymnasium.")
