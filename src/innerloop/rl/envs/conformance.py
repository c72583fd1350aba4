"""What a gymnasium environment must keep to: its mistakes are found where they happen, not in the returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from innerloop.errors import InnerloopError

ROUNDING = 16
"""By how many units of rounding, relative to a bound or 1, an observation may be beyond its space."""


def require_environments(gymnasium: Any, envs: Sequence[Any], name: str) -> None:
    """Refuse what is no environment, and the same one twice, whose episodes would run into each other.

    Raises:
        InnerloopError: naming the environment and the mend.
    """
    for env in envs:
        if not isinstance(env, gymnasium.Env):
            raise InnerloopError(f"SyncVector's make returned a {type(env).__name__} for {name}, not a gymnasium.Env.")
    if len({id(env.unwrapped) for env in envs}) < len(envs):
        raise InnerloopError(
            f"SyncVector's make returned the same {name} twice, and copies must not share a state; build a new "
            "environment inside of make."
        )


def require_spaces(gymnasium: Any, env: Any, name: str) -> None:
    """Refuse spaces that have no vector of fixed length.

    Raises:
        InnerloopError: naming the environment, the space and what would do.
    """
    spaces = gymnasium.spaces
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, spaces.Discrete) and not (isinstance(actions, spaces.Box) and len(actions.shape) == 1):
        raise InnerloopError(
            f"{name} has the action space {actions}; SyncVector takes a Box with one axis or a Discrete, so wrap it in "
            "a gymnasium.ActionWrapper."
        )
    if not observations.is_np_flattenable:
        raise InnerloopError(
            f"{name} has the observation space {observations}, which has no fixed size; wrap it in a "
            "gymnasium.ObservationWrapper that gives a Box."
        )


def require_observation(gymnasium: Any, space: Any, observation: Any, name: str) -> None:
    """Refuse an observation outside of its space. One that is not finite is no mistake here: it ends an episode.

    Numbers may have another precision than the space, and exceed a bound by rounding.

    Raises:
        InnerloopError: naming the environment, the observation and the space.
    """
    if not isinstance(space, gymnasium.spaces.Box):
        if not space.contains(observation):
            raise InnerloopError(
                f"{name} answered the observation {_short(observation)}, which is not in its space {space}; correct "
                "one of them."
            )
        return
    values = np.asarray(observation)
    if values.shape != space.shape or not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise InnerloopError(
            f"{name} answered an observation {values.dtype}{list(values.shape)}, and its space is "
            f"{space.dtype}{list(space.shape)}; correct one of them."
        )
    # The precision of the coarser of the two: a float32 environment may bound by a float64 constant.
    kinds = [dtype for dtype in (values.dtype, space.dtype) if np.issubdtype(dtype, np.floating)]
    unit = ROUNDING * max((float(np.finfo(dtype).eps) for dtype in kinds), default=0.0)
    low, high = (np.where(np.isfinite(bound), bound, 0.0) for bound in (space.low, space.high))
    beyond = (values < space.low - unit * np.maximum(1.0, np.abs(low))) | (
        values > space.high + unit * np.maximum(1.0, np.abs(high))
    )
    beyond &= np.isfinite(values)
    if beyond.any():
        at = tuple(int(index[0]) for index in np.nonzero(beyond))
        raise InnerloopError(
            f"{name} answered an observation whose number {list(at)} is {values[at]:g}, and its space allows "
            f"{space.low[at]:g} to {space.high[at]:g}; correct one of them."
        )


def require_start(answer: Any, name: str) -> None:
    """Refuse what is not `(observation, info)`.

    Raises:
        InnerloopError: naming the environment.
    """
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise InnerloopError(
            f"reset of {name} returned {_kind(answer)} instead of (observation, info); it keeps to an API older than "
            "gymnasium's."
        )


def require_step(answer: Any, name: str) -> None:
    """Refuse what is not `(observation, reward, terminated, truncated, info)` with one number as its reward.

    Raises:
        InnerloopError: naming the environment.
    """
    if not (isinstance(answer, tuple) and len(answer) == 5):
        raise InnerloopError(
            f"step of {name} returned {_kind(answer)} instead of (observation, reward, terminated, truncated, info); "
            "split its done into terminated and truncated."
        )
    reward = np.asarray(answer[1])
    if reward.shape or not (np.issubdtype(reward.dtype, np.number) or reward.dtype == bool):
        raise InnerloopError(
            f"step of {name} returned the reward {_short(answer[1])}, {_kind(answer[1])}; it must be one number."
        )


def attributes_of_wrappers(gymnasium: Any, env: Any) -> list[tuple[Any, set[str]]]:
    """Each wrapper around an environment, and the names of what has been set on it."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append((env, {name for name in vars(env) if not name.startswith("_")}))
        env = env.env
    return found


def require_reached(before: list[tuple[Any, set[str]]], name: str) -> None:
    """Refuse a task that was set on a wrapper as a new attribute, where the environment inside never sees it.

    Raises:
        InnerloopError: naming the environment, the attribute and the wrapper.
    """
    for wrapper, names in before:
        new = sorted({each for each in vars(wrapper) if not each.startswith("_")} - names)
        if new:
            raise InnerloopError(
                f"SyncVector's apply set {new[0]!r} on the wrapper {type(wrapper).__name__} of {name}, from where it "
                "never reaches the environment; set it on env.unwrapped."
            )


def _kind(value: Any) -> str:
    """What it is, in a few words."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    shape = np.shape(value) if isinstance(value, np.ndarray | list) else ()
    return f"a {type(value).__name__}" + (f" of shape {list(shape)}" if shape else "")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
