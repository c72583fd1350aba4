"""An environment on the host that is large enough for sums to be cut, by XLA, among its threads."""

import numpy as np

from innerloop.rl import Step, envs


class Wanderer:
    """Observations are noise of their own for each episode; what is rewarded is to act."""

    name = "Wanderer"
    observation_size, action_size, discrete, horizon = 20, 1, False, 200
    tasks = envs.Uniform(-1.0, 1.0)

    def __init__(self, num_envs):
        self.num_envs, self.noise, self.steps = num_envs, [np.random.default_rng()] * num_envs, 0

    def reset(self, tasks, seeds, ids=None):
        for i, seed in zip(ids, seeds, strict=True):
            self.noise[i] = np.random.default_rng(seed)
        return self._seen(ids)

    def step(self, tasks, actions, ids=None):
        self.steps += len(ids)
        over = np.zeros(len(ids), bool)
        return Step(self._seen(ids), tasks * actions[:, 0], over, over)

    def _seen(self, ids):
        return np.stack([self.noise[i].normal(size=self.observation_size) for i in ids]).astype(np.float32)
