"""The environments one at a time, as gymnasium has them: `gymnasium.make("innerloop/AntVelocity-v0")`.

The task of an episode is the option `task` of its reset, or else drawn with the seed; `info["task"]` tells it.
"""

from itertools import pairwise
from typing import Any, cast

import gymnasium
import jax
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.rl.envs.locomotion import Locomotion
from innerloop.rl.envs.navigation import Navigation2D
from innerloop.rl.envs.registry import make
from innerloop.rl.types import HostEnv, JaxEnv, Step

LIMIT = 1e6  # the nominal bounds of observations in rllab, which clips none


class _SingleEnv(gymnasium.Env):
    """What both kinds have in common."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012

    def __init__(self, env: JaxEnv | HostEnv, dtype: type, render_mode: str | None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InnerloopError(f"{env.name} cannot render as {render_mode!r}; the only mode is rgb_array.")
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-LIMIT, LIMIT, (env.observation_size,), dtype)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (env.action_size,), np.float32)
        self._described = env
        self._task = np.zeros(0)

    def _begin(self, seed: int | None, options: dict[str, Any] | None) -> tuple[np.ndarray, int]:
        """The task and the seed of an episode."""
        super().reset(seed=seed)
        options = dict(options or {})
        task, env = options.pop("task", None), self._described
        if options:
            raise InnerloopError(f"{env.name} has no reset option {next(iter(options))!r}; the only one is task.")
        episode_seed = int(self.np_random.integers(2**31))
        task = env.tasks.sample(self.np_random, 1)[0] if task is None else task
        self._task = np.array(task, np.float64)
        if self._task.shape != env.tasks.shape:
            raise InnerloopError(
                f"A task of {env.name} has shape {list(env.tasks.shape)}, not {list(self._task.shape)}."
            )
        return self._task, episode_seed

    def _info(self) -> dict[str, Any]:
        return {"task": self._task.copy()}

    def _answer(self, step: Step) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        dtype = self.observation_space.dtype
        return (
            np.array(step.observation, dtype),
            float(step.reward),
            bool(step.terminated),
            bool(step.truncated),
            self._info(),
        )


class SingleHostEnv(_SingleEnv):
    """One simulation of a robot.

    Args:
        environment: a name in `innerloop.rl.envs.ENVIRONMENTS`.
        render_mode: `"rgb_array"` or `None`.
        options: `oracle` and `tasks`, as of `innerloop.rl.envs.make`.
    """

    def __init__(self, environment: str, render_mode: str | None = None, **options: Any) -> None:
        # The horizon is gymnasium's here: make("...", max_episode_steps=...).
        if unknown := sorted(set(options) - {"oracle", "tasks"}):
            raise InnerloopError(f"A single {environment} has no option {unknown[0]!r}; there are oracle and tasks.")
        self._env = cast(Locomotion, make(environment, threads=1, **options))
        super().__init__(self._env, np.float64, render_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        task, episode_seed = self._begin(seed, options)
        return self._env.reset(task[None], np.array([episode_seed]))[0], self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self._env.step(self._task[None], np.asarray(action)[None])
        return self._answer(Step(*(field[0] for field in step)))

    def render(self) -> np.ndarray | None:
        return self._env.render() if self.render_mode else None

    def close(self) -> None:
        self._env.close()


class SingleJaxEnv(_SingleEnv):
    """One point in the plane.

    Args:
        environment: a name in `innerloop.rl.envs.ENVIRONMENTS`.
        render_mode: `"rgb_array"` or `None`.
        options: of `innerloop.rl.envs.make`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, environment: str, render_mode: str | None = None, **options: Any) -> None:
        self._env = cast(Navigation2D, make(environment, **options))
        super().__init__(self._env, np.float32, render_mode)
        self._reset, self._step = jax.jit(self._env.reset), jax.jit(self._env.step)
        self._state: Any = None
        self._trail: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        task, episode_seed = self._begin(seed, options)
        self._state, observation = self._reset(task, jax.random.key(episode_seed))
        self._trail = [np.asarray(self._state)]
        return np.array(observation, np.float32), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._state, step = self._step(self._task, self._state, np.asarray(action))
        self._trail.append(np.asarray(self._state))
        return self._answer(step)

    def render(self) -> np.ndarray | None:
        return _plane(self._task, np.stack(self._trail)) if self.render_mode else None


def _plane(goal: np.ndarray, trail: np.ndarray, size: int = 240, reach: float = 0.75) -> np.ndarray:
    """A picture of the square from `-reach` to `reach`: the goal green, the way grey, the point blue, y upwards."""
    image = np.full((size, size, 3), 255, np.uint8)
    axis = np.linspace(-reach, reach, size)
    x, y = np.meshgrid(axis, -axis)

    def dot(centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
        centre = np.clip(centre, -reach, reach)  # a point outside is drawn at the edge
        image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2] = colour

    dot(goal, 0.03, (60, 170, 90))
    for start, end in pairwise(trail):
        for part in np.linspace(0.0, 1.0, 20):
            dot(start + part * (end - start), 0.004, (170, 170, 170))
    dot(trail[-1], 0.02, (40, 90, 200))
    return image
