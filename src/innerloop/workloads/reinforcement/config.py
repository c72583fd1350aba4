"""The configuration of an experiment in meta-reinforcement learning. Nothing here imports JAX."""

from dataclasses import dataclass, field
from typing import Literal

import tyro

from innerloop.errors import InnerloopError
from innerloop.runs.codec import Count, NotNegative, Positive, Share, Whole, flag, require_bounds
from innerloop.runs.fields import Layout, Log


@dataclass(frozen=True)
class Policy:
    """The policy: a multilayer perceptron for the mean of a normal distribution, whose deviation is learned too."""

    widths: tuple[int, ...] = (100, 100)
    """hidden layers"""


@dataclass(frozen=True)
class Inner:
    """The inner loop: policy gradients on each task's own episodes, which are collected anew after every update."""

    learning_rate: Positive = 0.1
    """step size"""
    steps: Count = 1
    """updates in training"""
    estimator: Literal["log-likelihood", "lvc", "dice", "loaded-dice", "e-maml"] = "log-likelihood"
    """what the meta-gradient knows of how the policy shapes its own data"""


@dataclass(frozen=True)
class Sampling:
    """What is collected of each task, before adaptation and after every update."""

    episodes: Count = 20
    """whole episodes of full length, or more if they end early"""
    rule: Literal["steps", "episodes"] = "steps"
    """whether to collect until episodes x horizon steps are reached, or just that number of episodes"""


@dataclass(frozen=True)
class Advantages:
    """How actions are judged."""

    baseline: Literal["linear", "network", "none"] = "linear"
    """ridge regression on polynomials of observation and time, a value network, or nothing"""
    discount: Share = 0.99
    """of future rewards, gamma"""
    trace: Share = 1.0
    """lambda of generalised advantage estimation"""
    bootstrap: bool = False
    """whether an episode that the horizon broke off would have earned its baseline afterwards, rather than nothing"""


@dataclass(frozen=True)
class Outer:
    """The outer loop."""

    iterations: Count = 100
    """meta-iterations"""
    meta_batch: Count = 40
    """tasks in an iteration"""
    update: Literal["trust-region", "ppo", "policy-gradient"] = "trust-region"
    """the outer update: TRPO, clipped ratios as in ProMP, or one step along the meta-gradient"""
    bound: Positive = 0.01
    """trust-region: the largest mean divergence of an update, in nats"""
    divergence: Literal["adapted", "initial"] = "adapted"
    """trust-region: whose divergence is bounded, the adapted policies' or that of the policy before adaptation"""
    cap: NotNegative = 0.0
    """trust-region: the largest mean divergence of the other of the two, in nats; 0: any"""
    curvature_tasks: Whole = 0
    """trust-region: tasks that the curvature is computed from; gradient and line search are over all; 0: all"""
    curvature_every: Count = 1
    """trust-region: the curvature is computed from every so-manyth step of these tasks"""
    cg_iterations: Count = 10
    """trust-region: iterations of conjugate gradients, at most; more follow the batch's noise more closely"""
    damping: NotNegative = 1e-5
    """trust-region: added to the diagonal of the curvature"""
    learning_rate: Positive = 1e-3
    """ppo, policy-gradient: step size of Adam"""
    epochs: Count = 5
    """ppo: steps on the same experience"""
    clip: Positive = 0.3
    """ppo: how far the ratio of likelihoods may be from 1"""


@dataclass(frozen=True)
class Evaluation:
    """What is measured when training ends, on the 40 test tasks of the paper."""

    updates: Whole = 3
    """inner updates at test"""
    steps: Count = 4000
    """steps that are collected of a task, before adaptation and after each update"""
    later_factor: NotNegative = 0.5
    """all updates after the first are multiplied by this"""
    seed: Whole = 1
    """of the episodes"""
    baselines: bool = True
    """whether to compare with a random policy, pre-training on all tasks, and a policy that observes the task"""
    baseline_iterations: Count = 100
    """training iterations of the latter two, each on 100 episodes"""
    oracle_iterations: Whole = 0
    """those of the policy that observes the task; 0: as many"""
    pretraining: Literal["trust-region", "adam"] = "trust-region"
    """how pre-training updates the policy: like the oracle, or by one step of Adam in an iteration"""
    pretrained_rate: Positive = 0.5
    """step size with which the pre-trained policy is adapted"""
    random_rate: Positive = 0.5
    """step size with which the random policy is adapted"""


@dataclass(frozen=True)
class Config:
    """An experiment in meta-reinforcement learning."""

    environment: Literal[
        "Navigation2D",
        "Navigation2DSparse",
        "HalfCheetahVelocity",
        "HalfCheetahDirection",
        "AntVelocity",
        "AntDirection",
        "AntPosition",
    ]
    """what is acted in"""
    inner: Inner
    outer: Outer
    evaluation: Evaluation
    sampling: Sampling = field(default_factory=Sampling)
    policy: Policy = field(default_factory=Policy)
    advantages: Advantages = field(default_factory=Advantages)
    recipe: tyro.conf.Suppress[str] = ""
    """the name of the recipe that it came from"""
    algorithm: Literal["maml", "fomaml", "truncated-maml", "meta-sgd", "joint"] = "maml"
    """a row of the table of algorithms"""
    seed: Whole = 0
    """of the initial parameters, of all training tasks and episodes"""
    layout: Layout = field(default_factory=Layout)
    log: Log = field(default_factory=lambda: Log(every=1))
    run_dir: str | None = None
    """the run directory; else runs/RECIPE-seedN"""

    data_dir: tyro.conf.Suppress[str | None] = None
    """there is no data"""


WITHOUT_EFFECT = {
    **{
        f"outer.{name}": ("trust-region",)
        for name in ("bound", "divergence", "cap", "curvature_tasks", "curvature_every", "cg_iterations", "damping")
    },
    "outer.learning_rate": ("ppo", "policy-gradient"),
    "outer.epochs": ("ppo",),
    "outer.clip": ("ppo",),
}
"""The outer updates that each setting belongs to."""


def check(config: Config, usual: Outer | None = None) -> None:
    """Refuse what cannot work.

    Args:
        config: the configuration.
        usual: the recipe's outer loop, whose own settings nobody asked for; `None`: the defaults.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    require_bounds(config)
    if not config.policy.widths or min(config.policy.widths) < 1:
        raise InnerloopError(f"--policy.widths is {config.policy.widths}; give at least one width, each at least 1.")
    if config.outer.curvature_tasks > config.outer.meta_batch:
        raise InnerloopError(
            f"--outer.curvature-tasks is {config.outer.curvature_tasks}, but an iteration has only "
            f"--outer.meta-batch {config.outer.meta_batch} tasks; give no more, or 0 for all."
        )
    bounded = config.outer.update == "trust-region" and config.outer.divergence
    if config.algorithm == "meta-sgd" and bounded == "initial":
        raise InnerloopError(
            "--outer.divergence initial has no curvature for the step sizes that meta-sgd learns; use "
            "--outer.divergence adapted."
        )
    _require_effect(config, usual or Outer())


def _require_effect(config: Config, usual: Outer) -> None:
    """Refuse settings that would do nothing."""
    for name, updates in WITHOUT_EFFECT.items():
        setting = name.removeprefix("outer.")
        unused = vars(config.outer)[setting] not in (vars(usual)[setting], vars(Outer())[setting])
        if config.outer.update not in updates and unused:
            raise InnerloopError(
                f"--{flag(name)} has no effect with --outer.update {config.outer.update}; leave it out, or choose "
                f"{' or '.join(updates)}."
            )
    if config.layout.parameters > 1:
        raise InnerloopError("--layout.parameters has no effect in reinforcement learning; leave it out.")
    for name in ("loop", "levels", "convolution"):
        if vars(config.layout)[name] != vars(Layout())[name]:
            raise InnerloopError(f"--layout.{name} has no effect in reinforcement learning; leave it out.")
