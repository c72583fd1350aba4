"""Environments for meta-reinforcement learning, in which a task is an argument.

Where gymnasium is installed, importing this registers them there too, one at a time: `innerloop/AntVelocity-v0`.
"""

from innerloop.rl.envs.distributions import Directions, Uniform
from innerloop.rl.envs.functional import Functional
from innerloop.rl.envs.locomotion import Goal, Locomotion, direction, position, velocity
from innerloop.rl.envs.navigation import Navigation2D
from innerloop.rl.envs.registry import ENVIRONMENTS, make, reference_tasks, register
from innerloop.rl.envs.robots import Motion, Robot, ant, half_cheetah
from innerloop.rl.envs.vector import SyncVector

__all__ = [
    "ENVIRONMENTS",
    "Directions",
    "Functional",
    "Goal",
    "Locomotion",
    "Motion",
    "Navigation2D",
    "Robot",
    "SyncVector",
    "Uniform",
    "ant",
    "direction",
    "half_cheetah",
    "make",
    "position",
    "reference_tasks",
    "velocity",
]

register()
