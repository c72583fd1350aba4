"""The simulated robots of MAML's experiments: HalfCheetah and Ant as rllab had them on MuJoCo 1.31.

Both models are made from gymnasium's own asset files, edited before they are compiled. The edits bring back what has
changed since: rllab's solver parameters and time step where gymnasium's differ, the masses that old MuJoCo computed,
and the old contact margin. A robot also says what it observes, what its actions cost, and when it has fallen; what a
task asks of it is a `Goal`, in `innerloop.rl.envs.locomotion`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from innerloop.errors import InnerloopError
from innerloop.extras import require

TORSO = 1  # the body that carries all others, in both robots


class Motion(NamedTuple):
    """What is known of `n` copies of a robot at one instant, in SI units and world axes.

    Attributes:
        qpos: generalised positions.
        qvel: generalised velocities.
        centre: the whole robot's centre of mass, which rllab calls the torso's.
        velocity: of that centre.
        rotation: the torso's rotation matrix, row by row.
        contact: contact force and torque on each body including the world, torque first; 0 if the robot does not ask
            for it.
    """

    qpos: Float[np.ndarray, "n nq"]
    qvel: Float[np.ndarray, "n nv"]
    centre: Float[np.ndarray, "n 3"]
    velocity: Float[np.ndarray, "n 3"]
    rotation: Float[np.ndarray, "n 9"]
    contact: Float[np.ndarray, "n forces"]


class Robot(NamedTuple):
    """A compiled model with its part of the environment.

    Attributes:
        model: the `mujoco.MjModel`.
        initial: positions at reset before noise, `[nq]`.
        contact: whether contact forces are asked for, which costs an evaluation of the constraints after each step.
        observe: `motion -> observations`, `[n, observation]`.
        upkeep: `(motion, actions) -> [n]`, the part of the reward that does not depend on the task: what being alive
            earns, less what the actions cost.
        fallen: `motion -> [n]`, whether the episode is over.
    """

    model: Any
    initial: Float[np.ndarray, " nq"]
    contact: bool
    observe: Callable[[Motion], Float[np.ndarray, "n observation"]]
    upkeep: Callable[[Motion, Float[np.ndarray, "n action"]], Float[np.ndarray, " n"]]
    fallen: Callable[[Motion], Bool[np.ndarray, " n"]]


def half_cheetah() -> Robot:
    r"""HalfCheetah: 9 degrees of freedom, 6 motors, steps of 0.01 s; it never falls.

    It observes its positions but for the first, its velocities, and its centre of mass: 20 numbers. An action $a$ costs
    $0.05\,\lVert a\rVert^2$.

    Raises:
        InnerloopError: if MuJoCo or gymnasium is not installed.

    Reference:
        Duan et al.: Benchmarking Deep Reinforcement Learning for Continuous Control, 2016; with the observation and
        costs of MAML's released code.
    """
    mujoco, spec = _asset("half_cheetah.xml")
    _set_legacy_inertia(mujoco, spec, density=1000.0, total=14.0)

    def observe(motion: Motion) -> np.ndarray:
        return np.concatenate([motion.qpos[:, 1:], motion.qvel, motion.centre], axis=1)

    def upkeep(motion: Motion, actions: np.ndarray) -> np.ndarray:
        return -0.05 * (actions**2).sum(axis=1)

    def fallen(motion: Motion) -> np.ndarray:
        return np.zeros(len(motion.qpos), bool)

    model = _compiled(mujoco, spec, contact=False)
    return Robot(model, np.zeros(model.nq), False, observe, upkeep, fallen)


def ant() -> Robot:
    r"""Ant: 14 degrees of freedom, 8 motors, steps of 0.02 s; it falls when its torso leaves heights of 0.2 to 1 m.

    It observes its positions, velocities, contact forces $c$ clipped to $[-1, 1]$, torso rotation and centre of mass:
    125 numbers. It earns $0.05 - 0.005\,\lVert a\rVert^2 - 0.0005\,\lVert c\rVert^2$ for staying alive with the action
    $a$.

    Raises:
        InnerloopError: if MuJoCo or gymnasium is not installed.

    Reference:
        Duan et al.: Benchmarking Deep Reinforcement Learning for Continuous Control, 2016; with the observation and
        costs of MAML's released code.
    """
    mujoco, spec = _asset("ant.xml")
    spec.option.timestep = 0.02
    for geom in spec.geoms:
        geom.solimp = [0.8, 0.8, 0.01, 0.5, 2.0]
    # Since MuJoCo 3.5 the margin of a contact is the sum of its two geoms' margins; it was the greater one.
    spec.geom("floor").margin = 0.0
    _set_legacy_inertia(mujoco, spec, density=5.0)

    def observe(motion: Motion) -> np.ndarray:
        contact = np.clip(motion.contact, -1.0, 1.0)
        return np.concatenate([motion.qpos, motion.qvel, contact, motion.rotation, motion.centre], axis=1)

    def upkeep(motion: Motion, actions: np.ndarray) -> np.ndarray:
        contact = np.clip(motion.contact, -1.0, 1.0)
        return 0.05 - 0.005 * (actions**2).sum(axis=1) - 0.0005 * (contact**2).sum(axis=1)

    def fallen(motion: Motion) -> np.ndarray:
        height = motion.qpos[:, 2]
        return ~((height >= 0.2) & (height <= 1.0))  # in these words also if the height is no number

    model = _compiled(mujoco, spec, contact=True)
    return Robot(model, model.numeric("init_qpos").data.copy(), True, observe, upkeep, fallen)


def _asset(name: str) -> tuple[Any, Any]:
    """The module `mujoco`, and the editable specification of a model that gymnasium ships."""
    mujoco = require("mujoco", "rl", "A simulated robot")
    gymnasium = require("gymnasium", "rl", "A simulated robot")
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / name
    if not path.is_file():
        raise InnerloopError(
            f"gymnasium {gymnasium.__version__} does not have the model {name} at {path}; "
            "install the version that innerloop asks for: pip install 'innerloop[rl]'"
        )
    return mujoco, mujoco.MjSpec.from_file(str(path))


def _compiled(mujoco: Any, spec: Any, *, contact: bool) -> Any:
    """The model, with the sensors without which MuJoCo leaves the fields of `Motion` uncomputed."""
    kinds = mujoco.mjtSensor
    sensors = [kinds.mjSENS_SUBTREECOM, kinds.mjSENS_SUBTREELINVEL]
    if contact:
        sensors.append(kinds.mjSENS_FRAMELINACC)  # an acceleration brings the contact forces with it
    torso = spec.bodies[TORSO].name
    for kind in sensors:
        spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname=torso)
    return spec.compile()


def _set_legacy_inertia(mujoco: Any, spec: Any, *, density: float, total: float | None = None) -> None:
    """Give each body the mass and inertia that MuJoCo before 2.1.1 derived from its geoms.

    Explicit values also stand in for `settotalmass`, which MuJoCo 3.16 deprecated.

    Args:
        mujoco: the module.
        spec: the specification, changed in place.
        density: of the geoms, kg/m³.
        total: mass to which the whole robot is scaled, kg; `None` leaves it as it is.
    """
    spec.compiler.settotalmass = -1
    frames = spec.copy().compile()  # only to learn how each geom lies in its body
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    sphere = mujoco.mjtGeom.mjGEOM_SPHERE.value
    bodies = spec.bodies[1:]  # without the world
    for index, body in enumerate(bodies, 1):
        geoms = np.flatnonzero(frames.geom_bodyid == index)
        solids = [_legacy_solid(frames.geom_size[geom], density, frames.geom_type[geom] == sphere) for geom in geoms]
        masses = np.array([mass for mass, _ in solids])
        positions = frames.geom_pos[geoms]
        centre = masses @ positions / masses.sum()
        inertia = np.zeros((3, 3))
        for geom, (mass, moments), offset in zip(geoms, solids, positions - centre, strict=True):
            flat = np.empty(9)
            mujoco.mju_quat2Mat(flat, frames.geom_quat[geom])
            rotation = flat.reshape(3, 3)
            shifted = offset @ offset * np.eye(3) - np.outer(offset, offset)  # Huygens and Steiner
            inertia += rotation @ np.diag(moments) @ rotation.T + mass * shifted
        body.explicitinertial = True
        body.mass, body.ipos = masses.sum(), centre
        body.fullinertia = inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    if total is not None:
        scale = total / sum(body.mass for body in bodies)
        for body in bodies:
            body.mass, body.fullinertia = scale * body.mass, scale * np.asarray(body.fullinertia)


def _legacy_solid(size: np.ndarray, density: float, sphere: bool | np.bool) -> tuple[float, np.ndarray]:
    """Mass and principal moments of inertia of a sphere or a capsule about its own centre and axes.

    For old MuJoCo, a capsule was a cylinder: its middle section, longer by half a radius at each end.
    """
    radius = size[0]
    if sphere:
        mass = 4 / 3 * np.pi * radius**3 * density
        return mass, np.full(3, 0.4 * mass * radius**2)
    length = 2 * size[1] + radius
    mass = np.pi * radius**2 * length * density
    across = mass * (3 * radius**2 + length**2) / 12
    return mass, np.array([across, across, 0.5 * mass * radius**2])
