"""Meta-reinforcement learning: environments with a task as an argument, episodes collected from them, and training."""

from innerloop.rl import envs, objectives, policies, returns
from innerloop.rl.objectives import ESTIMATORS, Estimator
from innerloop.rl.policies import Categorical, Gaussian, StochasticPolicy
from innerloop.rl.returns import Experience, advantages
from innerloop.rl.rollout import collect
from innerloop.rl.train import (
    Adaptation,
    RLState,
    RLStep,
    Sampling,
    evaluate,
    init,
    smaller_later,
    tasks_of,
    train_step,
)
from innerloop.rl.trpo import TrustRegion
from innerloop.rl.types import HostEnv, JaxEnv, Policy, Rollouts, Step, TaskSampler
from innerloop.rl.updates import Descent, Needs, OuterUpdate, Problem, Values, ppo

__all__ = [
    "ESTIMATORS",
    "Adaptation",
    "Categorical",
    "Descent",
    "Estimator",
    "Experience",
    "Gaussian",
    "HostEnv",
    "JaxEnv",
    "Needs",
    "OuterUpdate",
    "Policy",
    "Problem",
    "RLState",
    "RLStep",
    "Rollouts",
    "Sampling",
    "Step",
    "StochasticPolicy",
    "TaskSampler",
    "TrustRegion",
    "Values",
    "advantages",
    "collect",
    "envs",
    "evaluate",
    "init",
    "objectives",
    "policies",
    "ppo",
    "returns",
    "smaller_later",
    "tasks_of",
    "train_step",
]
