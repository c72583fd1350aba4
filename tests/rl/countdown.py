"""An environment whose episodes have random lengths, in JAX and outside of it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.rl import Step, envs


@jax.tree_util.register_static
@dataclass(frozen=True)
class Countdown:
    """An episode lasts for 1 to `task` steps; the action is ignored. Observation: steps left, and the task."""

    name = "Countdown"
    observation_size, action_size, discrete, horizon = 2, 1, False, 12
    tasks = envs.Uniform(1.0, 12.0)

    def reset(self, task, key):
        left = 1 + jnp.floor(task * jax.random.uniform(key))
        return left, jnp.stack([left, task])

    def step(self, task, state, action):
        left = state - 1
        end = left <= 0
        return left, Step(jnp.stack([left, task]), task, end, jnp.zeros_like(end))


class HostCountdown:
    """The same; a task beyond 100 is an episode that the environment breaks off itself, at its third step."""

    name = "HostCountdown"
    observation_size, action_size, discrete, horizon = 2, 1, False, 12
    tasks = envs.Uniform(1.0, 12.0)

    def __init__(self, num_envs):
        self.num_envs, self.left, self.steps = num_envs, np.zeros(num_envs), 0

    def reset(self, tasks, seeds, ids=None):
        uniform = [np.random.default_rng(seed).uniform() for seed in seeds]
        self.left[ids] = 1 + np.floor(tasks * np.array(uniform))
        self.left[ids[tasks > 100]] = 103
        return np.stack([self.left[ids], tasks], axis=1)

    def step(self, tasks, actions, ids=None):
        self.steps += len(ids)
        self.left[ids] -= 1
        left = self.left[ids]
        return Step(np.stack([left, tasks], axis=1), tasks, left <= 0, left == 100)
