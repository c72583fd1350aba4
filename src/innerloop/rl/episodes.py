"""What both ways of collecting share: how many episodes are needed, their keys, and steps that are finite."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.rl.types import Policy, Step
from innerloop.types import PRNGKey

NEVER = np.iinfo(np.int32).max  # the number of no episode: sorts behind all others


class Rule(NamedTuple):
    """How much to collect of each task: `number` episodes, or, if it is a budget, episodes of `number` steps."""

    number: int
    budget: bool

    def shape(self, horizon: int) -> tuple[int, int]:
        """Rows and time of what is collected."""
        return (1, self.number + horizon - 1) if self.budget else (self.number, horizon)

    def at_once(self, horizon: int) -> int:
        """The most episodes of a task that may have to run at once."""
        return -(-self.number // horizon) if self.budget else self.number


def keys_of(key: PRNGKey, number: Array, first: Array | int = 0) -> Array:
    """The keys of the episodes with these numbers, `[tasks, n]`: folded with 0 for the reset, with `t + 1` to act.

    `first` is the number of the first of the tasks.
    """
    of_tasks = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(number.shape[0]))
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(of_tasks, number)


def act(policy: Policy, params: Any, observation: Array, keys: Array, t: Array) -> tuple[Array, Any]:
    """Actions of every environment, `[tasks, n, ...]`."""

    def one(params: Any, observation: Array, key: Array, t: Array) -> tuple[Array, Any]:
        return policy(params, observation, jax.random.fold_in(key, t + 1))

    return jax.vmap(jax.vmap(one, (None, 0, 0, 0)))(params, observation, keys, t)


def sound(step: Step) -> tuple[Step, Any]:
    """The step without what is not finite, which ends the episode, and whether it was; for NumPy and JAX arrays."""
    where = jnp.where if isinstance(step.reward, Array) else np.where
    finite = jnp.isfinite if isinstance(step.reward, Array) else np.isfinite
    sound = finite(step.observation).all(axis=-1) & finite(step.reward)
    observation = where(sound[..., None], step.observation, 0)
    return Step(observation, where(sound, step.reward, 0), step.terminated | ~sound, step.truncated & sound), ~sound
