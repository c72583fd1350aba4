"""From a configuration to the values that the library works with."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from innerloop import models, rl
from innerloop.core import algorithms
from innerloop.core.layout import Layout
from innerloop.rl.returns import Baseline
from innerloop.rl.types import BackgroundEnv, HostEnv, JaxEnv
from innerloop.runs.adjoint import as_laid_out
from innerloop.types import InnerRule
from innerloop.workloads.reinforcement.config import Config


class Clocked:
    """Environments on the host, with the seconds that they took.

    Args:
        env: the environments.

    Attributes:
        seconds: spent in `reset` and `step` so far.
    """

    def __init__(self, env: HostEnv):
        self.seconds = 0.0
        self._env = env
        self.name, self.tasks = env.name, env.tasks
        self.num_envs, self.horizon, self.discrete = env.num_envs, env.horizon, env.discrete
        self.observation_size, self.action_size = env.observation_size, env.action_size
        self.background = isinstance(env, BackgroundEnv) and env.background

    def reset(self, tasks: np.ndarray, seeds: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        start = time.perf_counter()
        observation = self._env.reset(tasks, seeds, ids)
        self.seconds += time.perf_counter() - start
        return observation

    def step(self, tasks: np.ndarray, actions: np.ndarray, ids: np.ndarray | None = None) -> rl.Step:
        start = time.perf_counter()
        step = self._env.step(tasks, actions, ids)
        self.seconds += time.perf_counter() - start
        return step


@dataclass(frozen=True)
class Experiment:
    """Everything that training and evaluation need.

    Attributes:
        config: where it came from.
        env: the environment of training.
        policy: the policy.
        algorithm: the row of the table.
        rule: the inner rule.
        outer: the outer update.
        judge: how rollouts are judged.
        layout: how tasks are laid out in the outer update.
    """

    config: Config
    env: JaxEnv | HostEnv
    policy: rl.StochasticPolicy
    algorithm: algorithms.Algorithm
    rule: InnerRule
    outer: rl.OuterUpdate
    judge: Any
    layout: Layout

    @property
    def horizon(self) -> int:
        """Steps in an episode."""
        return self.env.horizon

    def train_step(self) -> rl.RLStep:
        """One meta-iteration."""
        config = self.config
        number = config.sampling.episodes
        by_steps = config.sampling.rule == "steps"
        return rl.train_step(
            self.env,
            self.policy,
            rule=self.rule,
            num_tasks=config.outer.meta_batch,
            sampling=rl.Sampling(
                episodes=None if by_steps else number,
                steps=number * self.horizon if by_steps else None,
                next_observation=config.advantages.bootstrap,
            ),
            steps=config.inner.steps if self.algorithm.adapts else 0,
            inner=config.inner.estimator,
            outer=self.outer,
            adjoint=self.algorithm.adjoint,
            experience=self.judge,
            layout=self.layout,
        )


def build(config: Config) -> Experiment:
    """Everything that the configuration stands for.

    Raises:
        InnerloopError: if MuJoCo is needed and missing, or a number cannot work.
    """
    row = algorithms.algorithm(config.algorithm)
    env = environment(config, config.outer.meta_batch * config.sampling.episodes)
    # One task after another on each device: what is kept of it fits the caches. With episodes from the host, on two
    # cores, that is 1.5 times as fast. Those from JAX would be collected by every device.
    several = min(jax.device_count(), config.outer.meta_batch) if isinstance(env, HostEnv) else 1
    together = 1 if jax.default_backend() == "cpu" else None
    layout = Layout(config.layout.shards or several, config.layout.chunk or together, products=config.layout.products)
    layout.require(config.outer.meta_batch)
    adjoint = as_laid_out(row.adjoint, config.layout, algorithm=config.algorithm, steps=config.inner.steps)
    return Experiment(
        config=config,
        env=env,
        policy=rl.policies.for_environment(env, hidden=config.policy.widths),
        algorithm=row._replace(adjoint=adjoint),
        rule=row.rule(config.inner.learning_rate, config.inner.steps),
        outer=outer_update(config),
        judge=judge(config, env),
        layout=layout,
    )


def environment(config: Config, copies: int, *, oracle: bool = False) -> JaxEnv | HostEnv:
    """The configured environment, on the host in that many copies."""
    env = rl.envs.make(config.environment, oracle=oracle)
    if not isinstance(env, HostEnv):
        return env
    return Clocked(rl.envs.make(config.environment, oracle=oracle, num_envs=copies))  # pyright: ignore


def judge(config: Config, env: JaxEnv | HostEnv) -> Any:
    """How rollouts in that environment become experience."""
    chosen = config.advantages
    baselines: dict[str, Baseline] = {
        "linear": rl.returns.linear_features(),
        "network": rl.returns.value_network(
            models.mlp(env.observation_size + 1, (32, 32), 1, initializer=models.glorot)
        ),
        "none": rl.returns.no_baseline(),
    }
    return rl.advantages(
        baselines[chosen.baseline], discount=chosen.discount, trace=chosen.trace, bootstrap=chosen.bootstrap
    )


def outer_update(config: Config) -> rl.OuterUpdate:
    """The configured outer update."""
    outer = config.outer
    if outer.update == "trust-region":
        return rl.TrustRegion(
            outer.bound,
            damping=outer.damping,
            iterations=outer.cg_iterations,
            divergence=outer.divergence,
            cap=outer.cap,
            curvature_tasks=outer.curvature_tasks,
            curvature_every=outer.curvature_every,
        )
    optimizer = optax.adam(outer.learning_rate)
    return rl.ppo(optimizer, epochs=outer.epochs, clip=outer.clip) if outer.update == "ppo" else rl.Descent(optimizer)
