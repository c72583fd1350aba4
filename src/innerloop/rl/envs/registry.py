"""The environments of MAML's experiments as a table: each row is a name and what makes it.

If gymnasium is installed, each is also registered with it, one at a time, as `innerloop/<name>-v0`.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from innerloop.errors import InnerloopError
from innerloop.rl.envs.distributions import Directions, Uniform
from innerloop.rl.envs.locomotion import Goal, Locomotion, direction, position, velocity
from innerloop.rl.envs.navigation import GOALS, HORIZON, Navigation2D
from innerloop.rl.envs.robots import Robot, ant, half_cheetah
from innerloop.rl.types import HostEnv, JaxEnv, TaskSampler


class Entry(NamedTuple):
    """A published environment.

    Attributes:
        make: makes it, of keyword arguments.
        tasks: its distribution of tasks.
        seed: of NumPy's `RandomState` that drew its 40 test tasks.
        horizon: steps in an episode.
        single: its class in `innerloop.rl.envs.single`.
    """

    make: Callable[..., JaxEnv | HostEnv]
    tasks: TaskSampler
    seed: int = 1
    horizon: int = 200
    single: str = "SingleHostEnv"


def _locomotion(robot: Callable[[], Robot], goal: Goal, **options: Any) -> HostEnv:
    return Locomotion(robot(), goal, **options)


ENVIRONMENTS: dict[str, Entry] = {
    "Navigation2D": Entry(Navigation2D, GOALS, horizon=HORIZON, single="SingleJaxEnv"),
    "Navigation2DSparse": Entry(partial(Navigation2D, reward="sparse"), GOALS, horizon=HORIZON, single="SingleJaxEnv"),
    "HalfCheetahVelocity": Entry(partial(_locomotion, half_cheetah, velocity()), Uniform(0.0, 2.0)),
    "HalfCheetahDirection": Entry(partial(_locomotion, half_cheetah, direction()), Directions()),
    "AntVelocity": Entry(partial(_locomotion, ant, velocity(bonus=1.0)), Uniform(0.0, 3.0)),
    "AntDirection": Entry(partial(_locomotion, ant, direction()), Directions(), seed=2),
    "AntPosition": Entry(partial(_locomotion, ant, position()), Uniform(-3.0, 3.0, (2,))),
}


def make(name: str, **options: Any) -> JaxEnv | HostEnv:
    """A published environment.

    Args:
        name: a name in `ENVIRONMENTS`.
        options: `oracle`, and `tasks`, in place of the published distribution; for robots also `num_envs`, `threads`
            and `horizon`; for 2D navigation also `reward` and `radius`.

    Raises:
        InnerloopError: if there is no environment of this name, or what it needs is not installed.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, 2017, section 5.3. The sparse reward and the goal position
        are not in it; the latter is in its code.

    Example:
        >>> env = make("Navigation2D")
        >>> env.observation_size, env.action_size, env.horizon
        (2, 2, 100)
    """
    entry = _entry(name)
    return entry.make(**{"tasks": entry.tasks, "name": name, **options})


def reference_tasks(name: str) -> Float[np.ndarray, "40 *shape"]:
    """The 40 test tasks of MAML's published results, which depend on the name alone.

    There are none for the sparse reward and the goal position; here they are drawn in the same way.

    Args:
        name: a name in `ENVIRONMENTS`.

    Raises:
        InnerloopError: if there is no environment of this name.

    Example:
        >>> reference_tasks("HalfCheetahVelocity")[:3].round(3)
        array([0.834, 1.441, 0.   ])
    """
    entry = _entry(name)
    return np.asarray(entry.tasks.sample(np.random.RandomState(entry.seed), 40))


def register() -> None:
    """Register each environment with gymnasium, as `innerloop/<name>-v0`, if gymnasium is installed and lacks it."""
    if not find_spec("gymnasium"):
        return
    import gymnasium

    for name, entry in ENVIRONMENTS.items():
        if (spec := f"innerloop/{name}-v0") not in gymnasium.registry:
            gymnasium.register(
                spec,
                entry_point=f"innerloop.rl.envs.single:{entry.single}",
                max_episode_steps=entry.horizon,
                kwargs={"environment": name},
            )


def _entry(name: str) -> Entry:
    if name not in ENVIRONMENTS:
        raise InnerloopError(f"There is no environment {name!r}; choose one of: {', '.join(ENVIRONMENTS)}.")
    return ENVIRONMENTS[name]
