"""The contract of reinforcement learning: what environments, policies and rollouts hand to each other.

A task is an array (a goal, a direction), and always an argument: no environment is ever told which task it is in. There
are two kinds of environment. A `JaxEnv` is pure functions of one environment, which run inside a compiled step. A
`HostEnv` is many copies outside of JAX, which keep their state and are stepped together. Policies do not know the
difference, and neither does what is made of `Rollouts`.
"""

from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from innerloop.types import Params, PRNGKey

Rng: TypeAlias = np.random.Generator | np.random.RandomState | PRNGKey
"""Where random tasks come from: NumPy outside of compiled functions, a JAX key inside them."""


@runtime_checkable
class TaskSampler(Protocol):
    """A distribution of tasks.

    Attributes:
        shape: the shape of one task.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def sample(self, rng: Rng, num_tasks: int) -> Array | np.ndarray:
        """Draw tasks, `[tasks, *shape]`: a JAX array from a key, a NumPy array otherwise."""
        ...


class Step(NamedTuple):
    """What an environment answers to an action; a `HostEnv` with a leading axis `[n]`.

    Attributes:
        observation: after the action, `[observation]`.
        reward: for the action.
        terminated: whether the task ended: nothing is earned after this.
        truncated: whether the environment breaks the episode off for another reason than the task's. The horizon is not
            among them: `innerloop.rl.collect` keeps it.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any


class _Described(Protocol):
    """What both kinds of environment tell of themselves.

    Attributes:
        name: the environment's name.
        observation_size: numbers in an observation.
        action_size: numbers in an action, each of which is clipped to -1..1; the number of choices if `discrete`.
        discrete: whether an action is an integer below `action_size`.
        horizon: steps after which an episode is broken off.
        tasks: the distribution of tasks.
    """

    @property
    def name(self) -> str: ...
    @property
    def observation_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    @property
    def discrete(self) -> bool: ...
    @property
    def horizon(self) -> int: ...
    @property
    def tasks(self) -> TaskSampler: ...


@runtime_checkable
class JaxEnv(_Described, Protocol):
    """One environment as pure functions: a pytree, as a task distribution is, vectorised by whoever uses it."""

    def reset(self, task: Array, key: PRNGKey, /) -> tuple[PyTree, Array]:
        """Begin an episode: `(state, observation)`."""
        ...

    def step(self, task: Array, state: PyTree, action: Array, /) -> tuple[PyTree, Step]:
        """Act: `(state, step)`. Randomness of the dynamics is a key in the state."""
        ...


@runtime_checkable
class HostEnv(_Described, Protocol):
    """Many copies of one environment outside of JAX, stepped together.

    Attributes:
        num_envs: the number of copies.
    """

    @property
    def num_envs(self) -> int: ...

    def reset(self, tasks: np.ndarray, seeds: np.ndarray, ids: np.ndarray | None = None, /) -> np.ndarray:
        """Begin an episode in each of the copies `ids`.

        Args:
            tasks: the task of each, `[n, *shape]`.
            seeds: fixes each episode's randomness, integers from 0 to $2^{31} - 1$, `[n]`.
            ids: which copies, ascending, `[n]`; `None`: all.

        Returns:
            The observations, `[n, observation]`.
        """
        ...

    def step(self, tasks: np.ndarray, actions: np.ndarray, ids: np.ndarray | None = None, /) -> Step:
        """Act in each of the copies `ids`.

        Args:
            tasks: the task of each, `[n, *shape]`.
            actions: `[n, action]`, or integers `[n]` if discrete.
            ids: which copies, ascending, `[n]`; `None`: all.

        Returns:
            The step, with leading axis `[n]`.
        """
        ...


@runtime_checkable
class BackgroundEnv(HostEnv, Protocol):
    """A `HostEnv` that can work in the background: while some of its copies step, the policy acts in others.

    Attributes:
        background: whether it may be called from another thread than the one that made it. There is one call at a time.
            It pays if most of its time passes without Python's global lock.
    """

    @property
    def background(self) -> bool: ...


@runtime_checkable
class Policy(Protocol):
    """Chooses the action in one environment. It sees no axis of environments; the library vectorises.

    The action is the raw sample: environments clip it, and likelihoods are those of what was drawn. Whatever else it
    returns (log-probability, mean) is kept in `Rollouts.info`.
    """

    def __call__(self, params: Params, observation: Array, key: PRNGKey, /) -> tuple[Array, PyTree[Array]]: ...


class Rollouts(NamedTuple):
    """Whole episodes of many tasks. Every array has the leading axes `[tasks, rows, time]`; padding is zero.

    A row holds whole episodes one after the other, then padding. With a fixed number of episodes that is one episode in
    each row, `[tasks, episodes, horizon]`. With a budget of steps, it is all of a task's episodes in one row,
    `[tasks, 1, steps + horizon - 1]`: as many short episodes as it takes, and hardly any padding. What sums over time
    and is cut where `last` holds, and knows the time from `t`, is right for both.

    Attributes:
        observation: before the action, `[..., observation]`.
        action: the raw sample of the policy, `[..., action]`, or integers `[...]` if discrete.
        reward: `[...]`.
        info: what the policy returned beside the action, leaves `[..., *]`.
        t: number of the step in its episode, from 0, `[...]`.
        mask: whether there is a step here, `[...]`.
        terminated: whether the task ended with this step, `[...]`.
        truncated: whether the episode was broken off after this step, by the horizon or otherwise, `[...]`.
        broken: whether the episode ended with this step because what the environment answered was not finite; it then
            counts as terminated, with a reward of 0, `[...]`.
        next_observation: after the action, `[..., observation]`, if asked for: to estimate what a truncated episode
            would still have earned.
    """

    observation: Float[Array, "tasks rows time observation"]
    action: Array
    reward: Float[Array, "tasks rows time"]
    info: PyTree[Array]
    t: Int[Array, "tasks rows time"]
    mask: Bool[Array, "tasks rows time"]
    terminated: Bool[Array, "tasks rows time"]
    truncated: Bool[Array, "tasks rows time"]
    broken: Bool[Array, "tasks rows time"]
    next_observation: Float[Array, "tasks rows time observation"] | None = None

    @property
    def last(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether an episode ends with this step."""
        return self.terminated | self.truncated

    @property
    def num_episodes(self) -> Int[Array | np.ndarray, " tasks"]:
        """Episodes of each task."""
        return self.last.sum(axis=(1, 2))

    @property
    def mean_return(self) -> Float[Array | np.ndarray, " tasks"]:
        """Undiscounted return of each task, the mean over its episodes."""
        return self.reward.sum(axis=(1, 2)) / self.num_episodes
