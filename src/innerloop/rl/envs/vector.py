"""Any gymnasium environment, in as many copies as wanted, with a task in each episode."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.rl.envs import conformance
from innerloop.rl.types import Step, TaskSampler


class SyncVector:
    """Copies of a gymnasium environment, stepped one after the other in this process: an `innerloop.rl.HostEnv`.

    Observations are flattened as `gymnasium.spaces.flatten` does. Continuous actions come in -1..1 and are scaled to
    the bounds of the action space, where it has any, and clipped to them.

    Args:
        make: makes one environment.
        tasks: the distribution of tasks.
        apply: `(env, task) -> None, options or environment`, called before each reset. It may change the environment,
            return the options of its reset, or return another environment made for this task, which takes its place.
        num_envs: number of copies.
        horizon: steps in an episode; the environment's own limit, if it is shorter, truncates too.
        name: the environment's name; `None`: that of its specification.

    Raises:
        InnerloopError: if gymnasium is not installed, if a number is not positive, if two copies are the same object,
            if the action space is neither a vector nor a choice, or if observations have no fixed size.

    Example:
        >>> import gymnasium, numpy as np
        >>> from innerloop.rl.envs import SyncVector, Uniform
        >>> env = SyncVector(
        ...     lambda: gymnasium.make("Pendulum-v1"),
        ...     Uniform(8.0, 12.0),
        ...     lambda env, task: setattr(env.unwrapped, "g", float(task)),
        ...     num_envs=3,
        ...     horizon=200,
        ... )
        >>> gravity = env.tasks.sample(np.random.default_rng(0), 3)
        >>> env.reset(gravity, np.arange(3)).shape
        (3, 3)
        >>> env.step(gravity, np.zeros((3, 1))).reward.shape
        (3,)
    """

    def __init__(
        self,
        make: Callable[[], Any],
        tasks: TaskSampler,
        apply: Callable[[Any, np.ndarray], Any],
        *,
        num_envs: int = 1,
        horizon: int,
        name: str | None = None,
    ) -> None:
        for what, value in {"num_envs": num_envs, "horizon": horizon}.items():
            if value < 1:
                raise InnerloopError(f"SyncVector cannot have {what}={value}; give at least 1.")
        self._gymnasium = require("gymnasium", "rl", "SyncVector")
        spaces = self._gymnasium.spaces
        self._envs: list[Any] = [make() for _ in range(num_envs)]
        self.name = name or _name_of(self._envs[0])
        conformance.require_environments(self._gymnasium, self._envs, self.name)
        conformance.require_spaces(self._gymnasium, self._envs[0], self.name)
        self._space = self._envs[0].observation_space
        space = self._envs[0].action_space
        self.discrete = isinstance(space, spaces.Discrete)
        self._actions = space
        if not self.discrete:
            bounded = space.bounded_below & space.bounded_above
            low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
            self._middle, self._half = 0.5 * (high + low), 0.5 * (high - low)
        self._tasks: list[np.ndarray | None] = [None] * num_envs
        self._apply = apply
        self.tasks, self.num_envs, self.horizon = tasks, num_envs, horizon
        self.observation_size = int(spaces.flatdim(self._space))
        self.action_size = int(space.n if self.discrete else space.shape[0])

    def reset(
        self,
        tasks: np.ndarray,
        seeds: np.ndarray,
        ids: np.ndarray | None = None,
    ) -> Float[np.ndarray, "n observation"]:
        """Begin episodes; see `innerloop.rl.HostEnv`.

        Raises:
            InnerloopError: if there is not one task and one seed for each copy, if the task is set where the
                environment does not see it, or if the environment does not keep to gymnasium's API.
        """
        places = self._places(ids, tasks=tasks, seeds=seeds)
        observations = []
        for place, task, seed in zip(places, tasks, seeds, strict=True):
            outside = conformance.attributes_of_wrappers(self._gymnasium, self._envs[place])
            applied = self._apply(self._envs[place], task)
            conformance.require_reached(outside, self.name)
            if isinstance(applied, self._gymnasium.Env):
                if applied is not self._envs[place]:
                    self._envs[place].close()
                self._envs[place], applied = applied, None
                conformance.require_environments(self._gymnasium, self._envs, self.name)
            answer = self._envs[place].reset(seed=int(seed), options=applied)
            conformance.require_start(answer, self.name)
            self._tasks[place] = np.array(task)
            observations.append(self._flat(answer[0]))
        return np.stack(observations)

    def step(
        self,
        tasks: np.ndarray,
        actions: np.ndarray,
        ids: np.ndarray | None = None,
    ) -> Step:
        """Act; see `innerloop.rl.HostEnv`.

        Raises:
            InnerloopError: if there is not one task and one action for each copy, or if a task is another than that of
                the last reset, which these environments cannot change within an episode, or if the environment does not
                keep to gymnasium's API or to its own spaces.
        """
        places = self._places(ids, tasks=tasks, actions=actions)
        steps = []
        for place, task, action in zip(places, tasks, actions, strict=True):
            if not np.array_equal(self._tasks[place], task):
                raise InnerloopError(
                    f"Copy {place} of {self.name} was reset with the task {self._tasks[place]}, but is stepped with "
                    f"{task}; a task lasts for an episode."
                )
            answer = self._envs[place].step(self._action(action))
            conformance.require_step(answer, self.name)
            steps.append((self._flat(answer[0]), float(answer[1]), bool(answer[2]), bool(answer[3])))
        return Step(*(np.stack(each) for each in zip(*steps, strict=True)))

    def close(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()

    def _places(self, ids: np.ndarray | None, **rows: Sequence[Any] | np.ndarray) -> np.ndarray:
        places = np.arange(self.num_envs) if ids is None else ids
        for what, values in rows.items():
            if len(values) != len(places):
                raise InnerloopError(
                    f"{len(places)} copies of {self.name} were given {len(values)} {what}; give one for each."
                )
        return places

    def _flat(self, observation: Any) -> np.ndarray:
        conformance.require_observation(self._gymnasium, self._space, observation, self.name)
        return np.asarray(self._gymnasium.spaces.flatten(self._space, observation), np.float64)

    def _action(self, action: Any) -> Any:
        if self.discrete:
            return int(action) + int(self._actions.start)
        scaled = self._middle + self._half * action
        return np.clip(scaled, self._actions.low, self._actions.high).astype(self._actions.dtype)


def _name_of(env: Any) -> str:
    """The name in its specification, or that of its class."""
    try:
        return env.spec.id if env.spec else type(env.unwrapped).__name__
    except AttributeError:  # no environment, as is said next
        return type(env).__name__
