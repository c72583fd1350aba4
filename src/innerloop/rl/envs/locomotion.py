"""Robots that run: many simulations of one robot, stepped together on threads, each with a task of its own."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.rl.envs.robots import TORSO, Motion, Robot
from innerloop.rl.types import Step, TaskSampler


class Goal(NamedTuple):
    """What a task asks of a robot.

    Attributes:
        shape: the shape of a task.
        reward: `(motion, tasks) -> [n]`, the part of the reward that depends on the task.
        values: the values that a task may have; `None`: any number.
    """

    shape: tuple[int, ...]
    reward: Callable[[Motion, Float[np.ndarray, "n ..."]], Float[np.ndarray, " n"]]
    values: tuple[float, ...] | None = None


def velocity(bonus: float = 0.0) -> Goal:
    r"""Run at a velocity $g$ in m/s: $b - |v_x - g|$.

    Args:
        bonus: $b$, which keeps a robot that can fall from falling on purpose.
    """
    return Goal((), lambda motion, tasks: bonus - np.abs(motion.velocity[:, 0] - tasks))


def direction() -> Goal:
    r"""Run forward ($g = 1$) or backward ($g = -1$): $g\,v_x$."""
    return Goal((), lambda motion, tasks: tasks * motion.velocity[:, 0], (-1.0, 1.0))


def position() -> Goal:
    r"""Go to a point $g$ of the plane, in m: $4 - \lVert c - g\rVert_1$ with the centre of mass $c$."""
    return Goal((2,), lambda motion, tasks: 4.0 - np.abs(motion.centre[:, :2] - tasks).sum(axis=1))


class Locomotion:
    """`num_envs` simulations of a robot, an `innerloop.rl.HostEnv`; `innerloop.rl.envs.make` builds the published ones.

    A step clips the action to -1..1, advances MuJoCo once, and computes observation, reward and termination from the
    new state. A reset adds noise of 0.01 to all positions and of 0.1 to all velocities, normal. Results have the same
    bits whatever the number of threads, and as if each simulation were alone.

    Args:
        robot: the robot.
        goal: what a task asks of it.
        tasks: the distribution of tasks.
        num_envs: number of simulations.
        oracle: whether the observation also holds the task.
        threads: to step them on; `None`: one for each core that this process may use.
        horizon: steps in an episode.
        name: the environment's name.

    Raises:
        InnerloopError: if MuJoCo is not installed, if a number is not positive, or if tasks and goal do not match.
    """

    discrete = False
    background = True  # MuJoCo steps without Python's lock

    def __init__(
        self,
        robot: Robot,
        goal: Goal,
        tasks: TaskSampler,
        *,
        num_envs: int = 1,
        oracle: bool = False,
        threads: int | None = None,
        horizon: int = 200,
        name: str = "Locomotion",
    ) -> None:
        threads = _cores() if threads is None else threads
        for what, value in {"num_envs": num_envs, "threads": threads, "horizon": horizon}.items():
            if value < 1:
                raise InnerloopError(f"{name} cannot have {what}={value}; give at least 1.")
        if tasks.shape != goal.shape:
            raise InnerloopError(
                f"{name} has tasks of shape {list(goal.shape)}, but the distribution draws {list(tasks.shape)}."
            )
        mujoco = self._mujoco = require("mujoco", "rl", name)
        # One that persists goes on from the stages that were computed for the observation: the same bits, in 0.7 of the
        # time. Contact forces need a stage that depends on the next controls, from which no step can go on.
        kind = require("mujoco.batch", "rl", name).Batch
        batch = kind(robot.model, num_envs, threads, persistent=not robot.contact)
        self.robot, self.goal, self.tasks = robot, goal, tasks
        self.num_envs, self.oracle, self.horizon, self.name = num_envs, oracle, horizon, name
        # Contact forces are known once accelerations are; without them positions and velocities are enough. Either way
        # MuJoCo's next step starts from the same state.
        stages = mujoco.mjtStage
        self._stage = int((stages.mjSTAGE_ACC if robot.contact else stages.mjSTAGE_VEL).value)
        self._batch = batch
        self._controls, self._warnings = batch.bind("ctrl"), batch.warning[:, :, 1]
        self._motion = Motion(
            qpos=batch.bind("qpos"),
            qvel=batch.bind("qvel"),
            centre=batch.bind("subtree_com")[:, TORSO],
            velocity=batch.bind("subtree_linvel")[:, TORSO],
            rotation=batch.bind("xmat")[:, TORSO].reshape(num_envs, 9),
            contact=batch.bind("cfrc_ext").reshape(num_envs, -1),
        )
        self._renderer: Any = None
        self.action_size = int(robot.model.nu)
        self.observation_size = robot.observe(self._motion).shape[1] + oracle * int(np.prod(goal.shape))

    def reset(
        self,
        tasks: np.ndarray,
        seeds: np.ndarray,
        ids: np.ndarray | None = None,
    ) -> Float[np.ndarray, "n observation"]:
        """Begin episodes; see `innerloop.rl.HostEnv`.

        Raises:
            InnerloopError: if there is not one fitting task and one seed for each simulation.
        """
        ids = self._ids(ids)
        tasks = self._tasks(tasks, ids)
        if len(seeds) != len(ids):
            raise InnerloopError(f"{self.name} resets {len(ids)} simulations with {len(seeds)} seeds; give one each.")
        model, motion = self.robot.model, self._motion
        noise = np.stack([np.random.default_rng(seed).standard_normal(model.nq + model.nv) for seed in seeds])
        self._batch.reset(ids, stage=int(self._mujoco.mjtStage.mjSTAGE_NONE.value))
        qpos = self.robot.initial + 0.01 * noise[:, : model.nq]
        for row in qpos:  # old MuJoCo normalised quaternions in place; a new one does so only where it uses them
            self._mujoco.mj_normalizeQuat(model, row)
        motion.qpos[ids] = qpos
        motion.qvel[ids] = 0.1 * noise[:, model.nq :]
        self._batch.forward(ids, self._stage)
        return self._observe(self._at(ids), tasks)

    def step(
        self,
        tasks: np.ndarray,
        actions: np.ndarray,
        ids: np.ndarray | None = None,
    ) -> Step:
        """Act; see `innerloop.rl.HostEnv`. A simulation that becomes unstable is terminated, its observation NaN.

        Raises:
            InnerloopError: if there is not one fitting task and one finite action for each simulation.
        """
        ids = self._ids(ids)
        tasks = self._tasks(tasks, ids)
        if actions.shape != (len(ids), self.action_size):
            raise InnerloopError(
                f"{self.name} steps {len(ids)} simulations with actions of shape {list(actions.shape)}; "
                f"give [{len(ids)}, {self.action_size}]."
            )
        if not np.isfinite(actions).all():
            bad = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
            raise InnerloopError(
                f"The action for simulation {ids[bad]} of {self.name} is not finite: {actions[bad]}; "
                "have the policy's parameters diverged?"
            )
        actions = np.clip(np.asarray(actions, np.float64), -1.0, 1.0)
        self._controls[ids] = actions
        self._batch.step(ids, stage=self._stage)
        motion = self._at(ids)
        reward = self.goal.reward(motion, tasks) + self.robot.upkeep(motion, actions)
        unstable = self._unstable(ids, motion)
        observation = self._observe(motion, tasks)
        observation[unstable] = np.nan  # not the start that MuJoCo puts it back to
        return Step(observation, reward, self.robot.fallen(motion) | unstable, np.zeros(len(ids), bool))

    def render(self, index: int = 0, *, size: int = 480) -> UInt8[np.ndarray, "size size 3"]:
        """A picture of one simulation, from the camera that follows the robot; it needs OpenGL, see `MUJOCO_GL`."""
        model, data = self.robot.model, self._batch.get_data(index)
        self._mujoco.mj_forward(model, data)
        if self._renderer is None or self._renderer.height != size:
            self.close()
            self._renderer = self._mujoco.Renderer(model, size, size)
        self._renderer.update_scene(data, camera="track")
        return self._renderer.render()

    def capsules(self, index: int = 0) -> tuple[Float[np.ndarray, "n 2 3"], Float[np.ndarray, " n"]]:
        """What one simulation's robot is made of, to be drawn without OpenGL.

        Returns:
            Both ends of each capsule in metres (twice the centre for a sphere), and their radii.
        """
        model, data = self.robot.model, self._batch.get_data(index)
        self._mujoco.mj_forward(model, data)
        kinds = self._mujoco.mjtGeom
        ids = np.flatnonzero(np.isin(model.geom_type, [kinds.mjGEOM_CAPSULE.value, kinds.mjGEOM_SPHERE.value]))
        half = np.where(model.geom_type[ids] == kinds.mjGEOM_CAPSULE.value, model.geom_size[ids, 1], 0.0)
        along = half[:, None] * data.geom_xmat[ids].reshape(-1, 3, 3)[:, :, 2]
        return np.stack([data.geom_xpos[ids] - along, data.geom_xpos[ids] + along], axis=1), model.geom_size[ids, 0]

    def close(self) -> None:
        """Release what rendering holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _ids(self, ids: np.ndarray | None) -> np.ndarray:
        return np.arange(self.num_envs) if ids is None else ids

    def _tasks(self, tasks: np.ndarray, ids: np.ndarray) -> np.ndarray:
        tasks = np.asarray(tasks, np.float64)
        if tasks.shape != (len(ids), *self.goal.shape):
            raise InnerloopError(
                f"{self.name} needs a task for each of {len(ids)} simulations, an array "
                f"{[len(ids), *self.goal.shape]}, not {list(tasks.shape)}."
            )
        fine = np.isfinite(tasks) if self.goal.values is None else np.isin(tasks, self.goal.values)
        if not fine.all():
            wanted = "finite" if self.goal.values is None else f"one of {', '.join(f'{v:g}' for v in self.goal.values)}"
            raise InnerloopError(f"A task of {self.name} is {tasks[~fine][0]:g}; it must be {wanted}.")
        return tasks

    def _at(self, ids: np.ndarray) -> Motion:
        return self._motion if len(ids) == self.num_envs else Motion(*(field[ids] for field in self._motion))

    def _observe(self, motion: Motion, tasks: np.ndarray) -> np.ndarray:
        observation = self.robot.observe(motion)
        return np.concatenate([observation, tasks.reshape(len(tasks), -1)], axis=1) if self.oracle else observation

    def _unstable(self, ids: np.ndarray, motion: Motion) -> Bool[np.ndarray, " n"]:
        """Whether MuJoCo gave up: it then warns, and puts the simulation back to its start."""
        kinds = self._mujoco.mjtWarning
        bad = [int(kind.value) for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)]
        warned = self._warnings[ids[:, None], bad].any(axis=1)
        return warned | ~np.isfinite(motion.qpos).all(axis=1) | ~np.isfinite(motion.qvel).all(axis=1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
