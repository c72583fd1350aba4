"""Environments that are pure functions in JAX, of Brax and of libraries like it, with a task in each episode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree

from innerloop.errors import InnerloopError
from innerloop.rl.types import Step, TaskSampler
from innerloop.types import PRNGKey

Reward = Callable[[Array, Any, Array, Any], Array]
"""`(task, state, action, state afterwards) -> reward`"""


@runtime_checkable
class FunctionalEnv(Protocol):
    """What Brax calls an environment: its states are pytrees with `obs`, and `done`, 1 where the episode is over."""

    @property
    def observation_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...

    def reset(self, rng: Array, /) -> Any:
        """The first state of an episode."""
        ...

    def step(self, state: Any, action: Array, /) -> Any:
        """The state after an action."""
        ...


@jax.tree_util.register_static
@dataclass(frozen=True)
class Functional:
    r"""A functional environment under a reward that depends on the task: an `innerloop.rl.JaxEnv`.

    Collecting then happens within the compiled iteration, simulator and all, on whatever device JAX has. The task is an
    argument of the reward, and of nothing else: $r_t = r(\text{task}, s_t, a_t, s_{t+1})$. For an environment whose
    dynamics depend on the task, write a `JaxEnv`.

    Args:
        env: the environment, without a wrapper that resets it or counts its steps: `collect` does.
        tasks: the distribution of tasks.
        reward: the reward of one step.
        horizon: steps in an episode.
        name: the environment's name.

    Raises:
        InnerloopError: if it is no such environment, or the horizon is not positive.

    Example:
        With Brax installed, HalfCheetah runs forward (1) or backward (-1)::

            from brax import envs as brax_envs

            def reward(direction, state, action, after):
                return direction * after.metrics["x_velocity"] - 0.05 * jnp.sum(action**2)

            cheetah = brax_envs.get_environment("halfcheetah")
            env = Functional(cheetah, Directions.released(), reward, horizon=200)

    Reference:
        Freeman et al.: Brax: A Differentiable Physics Engine for Large Scale Rigid Body Simulation, 2021, arXiv
        2106.13281.
    """

    env: Any
    tasks: TaskSampler
    reward: Reward
    horizon: int
    name: str = "Functional"

    discrete = False

    def __post_init__(self) -> None:
        if not isinstance(self.env, FunctionalEnv):
            raise InnerloopError(
                f"{self.name} is a {type(self.env).__name__}, which lacks reset(rng), step(state, action), "
                "observation_size or action_size; write a JaxEnv of your own for it."
            )
        if self.horizon < 1:
            raise InnerloopError(f"{self.name} cannot have horizon={self.horizon}; give at least 1.")

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        return int(self.env.observation_size)

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        return int(self.env.action_size)

    def reset(self, task: Array, key: PRNGKey) -> tuple[PyTree, Array]:
        """Begin an episode; see `innerloop.rl.JaxEnv`."""
        state = self.env.reset(key)
        return state, state.obs

    def step(self, task: Array, state: PyTree, action: Array) -> tuple[PyTree, Step]:
        """Act; see `innerloop.rl.JaxEnv`.

        Raises:
            InnerloopError: if the reward is not one number.
        """
        action = jnp.clip(action, -1.0, 1.0)
        after = self.env.step(state, action)
        reward = jnp.asarray(self.reward(task, state, action, after))
        if reward.shape:
            raise InnerloopError(f"The reward of {self.name} has shape {list(reward.shape)}; it must be one number.")
        terminated = jnp.asarray(after.done) > 0
        return after, Step(after.obs, reward, terminated, jnp.zeros_like(terminated))
