"""Meta-reinforcement learning: environments with a task as an argument, and whole episodes collected from them."""

from innerloop.rl import envs
from innerloop.rl.rollout import collect
from innerloop.rl.types import HostEnv, JaxEnv, Policy, Rollouts, Step, TaskSampler

__all__ = ["HostEnv", "JaxEnv", "Policy", "Rollouts", "Step", "TaskSampler", "collect", "envs"]
