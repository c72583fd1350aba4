r"""Meta-reinforcement learning: Algorithm 3 of MAML's paper, as one meta-iteration.

Each task's policy is adapted by `innerloop.adapt`, on one batch of experience for each inner step, collected by the
policy of that step; then the outer update solves the `Problem` that they pose.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder, Mixed
from innerloop.core.finite import SKIPPED, all_finite, updated_where
from innerloop.core.layout import Layout, map_over_tasks
from innerloop.core.outer import MetaState
from innerloop.core.trees import differentiable, merge, split
from innerloop.errors import InnerloopError
from innerloop.rl.objectives import Estimator, estimator, mean
from innerloop.rl.policies import StochasticPolicy
from innerloop.rl.problem import outer_problem
from innerloop.rl.returns import Advantages, Experience, advantages
from innerloop.rl.rollout import collect
from innerloop.rl.trpo import TrustRegion
from innerloop.rl.types import HostEnv, JaxEnv, Rollouts
from innerloop.rl.updates import OuterUpdate
from innerloop.types import Adjoint, InnerRule, Meta, Metrics, Params, PerStep, PRNGKey, RuleParams, Scalar, Step

Tree = TypeVar("Tree")

RLState = MetaState
"""What a run is: `meta`, `optimizer` (the outer update's state), `step` and `key`, as in supervised learning."""

RLStep = Callable[[RLState], tuple[RLState, Metrics]]
"""One meta-iteration."""


class Sampling(NamedTuple):
    """How much is collected of each task, and how often: see `collect`.

    Attributes:
        episodes: whole episodes of each task.
        steps: or else, the steps of each task that whole episodes must reach.
        next_observation: whether to keep what follows each step too, for `advantages(bootstrap=True)`.
    """

    episodes: int | None = None
    steps: int | None = None
    next_observation: bool = False


class Adaptation(NamedTuple):
    """Tasks on their way through collecting and adapting by turns.

    Attributes:
        returns: the mean undiscounted return of each task after 0, 1, ..., `steps` updates, `[tasks, steps + 1]`.
        episodes: over how many episodes each is the mean, `[tasks, steps + 1]`.
        broken: how many of these ended because something was no longer finite, `[tasks, steps + 1]`.
        params: the policy's parameters then, leaves `[tasks, steps + 1, ...]`.
        experience: what was collected, and judged, leaves `[tasks, steps + 1, ...]`.
    """

    returns: Array
    episodes: Array
    broken: Array
    params: Params
    experience: Experience


def init(params: Params, rule: InnerRule, outer: OuterUpdate, key: PRNGKey) -> RLState:
    """The state before the first meta-iteration.

    Args:
        params: the policy's initial parameters.
        rule: the inner rule, whose parameters are learned with them.
        outer: the outer update.
        key: the run's key.
    """
    meta = Meta(params, rule.init(params))
    return RLState(meta, outer.init(split(meta, differentiable(meta))[0]), jnp.zeros((), jnp.int32), key)


def train_step(
    env: JaxEnv | HostEnv,
    policy: StochasticPolicy,
    *,
    rule: InnerRule,
    num_tasks: int,
    sampling: Sampling,
    steps: int = 1,
    inner: Estimator | str = "log-likelihood",
    outer: OuterUpdate = TrustRegion(),
    adjoint: Adjoint = Mixed(),
    experience: Advantages | None = None,
    layout: Layout = Layout(),
) -> RLStep:
    r"""One meta-iteration: draw tasks, collect, adapt, collect again, update what is learned.

    With `steps` inner updates each task's episodes are collected `steps + 1` times: with the initial policy, and after
    every update with the policy that it made. With a `JaxEnv` all of it is one compiled program. With a `HostEnv` it is
    a function on the host around three compiled pieces.

    Args:
        env: the environment.
        policy: the policy; the same object gives the same program.
        rule: the inner update. What it may learn (step sizes, say) is learned.
        num_tasks: tasks in an iteration, drawn from `env.tasks`.
        sampling: how much is collected of each.
        steps: inner updates; 0 trains one policy for all tasks, without adaptation.
        inner: the inner estimator, or its name in `ESTIMATORS`.
        outer: the outer update: `TrustRegion()`, `ppo(optimizer)` or `Descent(optimizer)`.
        adjoint: how the meta-gradient flows back through the inner updates; `FirstOrder()` for the approximation.
        experience: how rollouts are judged; `advantages()` unless given.
        layout: how the tasks are laid out in the outer update. Their activations take most of the memory: for each
            task computed at once, about a dozen times its steps x hidden units x layers.

    Returns:
        `state -> (state, metrics)`. The metrics have `returns`, the mean undiscounted return after 0, ..., `steps`
        updates `[steps + 1]`, `episodes`, their number for each task and collection, `broken`, the number of those that
        ended because something was no longer finite, those of the outer update, and for a normal policy `log_std`, the
        mean log standard deviation of its actions before adaptation. An update that is not finite is not made; then
        `skipped` is 1.

    Raises:
        InnerloopError: if there is no task, if the layout does not suit, or for an unknown estimator.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, algorithm 3.
    """
    if num_tasks < 1:
        raise InnerloopError(f"An iteration has num_tasks={num_tasks} tasks; it needs at least 1.")
    layout.require(num_tasks)
    if outer.needs.curvature_tasks > num_tasks:
        raise InnerloopError(
            f"The curvature is to be computed from curvature_tasks={outer.needs.curvature_tasks} tasks, but an "
            f"iteration has num_tasks={num_tasks}; give no more than that, or 0 for all."
        )
    row = estimator(inner) if isinstance(inner, str) else inner
    run = _adaptation(env, policy, rule, sampling, steps, row, experience or advantages(), layout)
    problem_of = outer_problem(policy, rule, steps, row, outer, adjoint, layout)

    @jax.jit
    def update(state: RLState, data: Experience, score: Array, key: PRNGKey) -> tuple[RLState, Metrics]:
        learned, constant = split(state.meta, differentiable(state.meta))
        found, kept, metrics = outer.update(problem_of(constant, data, score, key), learned, state.optimizer)
        usable = all_finite((found, kept))
        learned, kept = updated_where(usable, lambda _: (found, kept), (learned, state.optimizer))
        return RLState(merge(learned, constant), kept, state.step + 1, state.key), metrics | {SKIPPED: 1.0 - usable}

    def collected(meta: Meta, key: PRNGKey, number: Array) -> tuple[Any, Metrics]:
        drawn, sample_key, update_key = _drawn(env, key, number, num_tasks)
        share = layout.own_share(num_tasks) if isinstance(env, HostEnv) else slice(0, num_tasks)
        of = run(meta, drawn[share], sample_key, share.start)
        known = {"returns": of.returns, "episodes": of.episodes, "broken": of.broken}
        known |= {"weight": of.experience.weight, "scale": of.experience.scale}
        if "log_std" in of.experience.info:  # a normal policy: too small, and it no longer explores
            known["log_std"] = of.experience.info["log_std"].mean(axis=-1)
        if isinstance(env, HostEnv):
            known = layout.told(known)
        returns, episodes, weight = known["returns"], known["episodes"], known["weight"]
        score = _score(weight, known["scale"], returns[:, -1], episodes[:, -1])
        counts = {"returns": returns.mean(axis=0), "episodes": episodes.mean(), "broken": known["broken"].sum()}
        if "log_std" in known:
            counts["log_std"] = _mean_before(known["log_std"], weight)
        return (of.experience, score, update_key), counts

    def compiled(state: RLState) -> tuple[RLState, Metrics]:
        data, counts = collected(state.meta, state.key, state.step)
        state, metrics = update(state, *data)
        return state, counts | metrics

    def on_host(state: RLState) -> tuple[RLState, Metrics]:
        (data, score, key), counts = collected(*layout.gather((state.meta, state.key, state.step)))
        state, metrics = update(state, layout.joined(data, num_tasks), *layout.replicate((score, key)))
        return state, counts | metrics

    return on_host if isinstance(env, HostEnv) else jax.jit(compiled)


def tasks_of(env: JaxEnv | HostEnv, state: RLState, num_tasks: int) -> Array | np.ndarray:
    """The tasks that the next meta-iteration draws, `[num_tasks, *shape]`."""
    return _drawn(env, state.key, state.step, num_tasks)[0]


def _drawn(env: JaxEnv | HostEnv, key: PRNGKey, number: Array, num_tasks: int) -> tuple[Any, PRNGKey, PRNGKey]:
    """The tasks of an iteration, and the keys for what follows."""
    task_key, sample_key, update_key = jax.random.split(jax.random.fold_in(key, number), 3)
    return env.tasks.sample(task_key, num_tasks), sample_key, update_key


def evaluate(
    env: JaxEnv | HostEnv,
    policy: StochasticPolicy,
    meta: Meta,
    tasks: Array | np.ndarray,
    key: PRNGKey,
    *,
    rule: InnerRule,
    sampling: Sampling,
    steps: int = 3,
    inner: Estimator | str = "log-likelihood",
    experience: Advantages | None = None,
    layout: Layout = Layout(),
) -> Adaptation:
    r"""Adapt to given tasks by 1, ..., `steps` updates, and measure the return after each.

    The episodes that measure the return after `t` updates are those that make update `t + 1`, as in the paper, where
    the first update is larger than the others: `rule=smaller_later(rule, 0.5)`.

    Args:
        env: the environment.
        policy: the policy.
        meta: what was learned.
        tasks: `[tasks, *shape]`, for example `envs.reference_tasks(name)`.
        key: all randomness.
        rule: the inner update, which need not be that of training.
        sampling: how much is collected of each task.
        steps: inner updates.
        inner: the inner estimator, or its name in `ESTIMATORS`.
        experience: how rollouts are judged; `advantages()` unless given.
        layout: how the tasks are laid out.

    Returns:
        The returns, and the policies that they are of; `innerloop.summarise` gives their mean and 95 % interval.
    """
    row = estimator(inner) if isinstance(inner, str) else inner
    run = _adaptation(env, policy, rule, sampling, steps, row, experience or advantages(), layout)
    return run(layout.gather(meta), tasks, key)


def smaller_later(rule: InnerRule, factor: float) -> InnerRule:
    r"""The same rule, but all its updates after the first are multiplied by a factor, as at the paper's test.

    Args:
        rule: the rule.
        factor: of the second update and those after it; 0.5 in most of the paper's experiments.

    Raises:
        InnerloopError: if the factor is negative or not finite.
    """
    if not 0 <= factor < float("inf"):
        raise InnerloopError(f"Later updates are multiplied by {factor}; it must be a finite number of at least 0.")

    def transform(learned: RuleParams, step: Step) -> optax.GradientTransformation:
        return optax.chain(rule.transform(learned, step), optax.scale(jnp.where(step == 0, 1.0, factor)))

    return rule._replace(transform=transform)


def _adaptation(
    env: JaxEnv | HostEnv,
    policy: StochasticPolicy,
    rule: InnerRule,
    sampling: Sampling,
    steps: int,
    row: Estimator,
    experience: Advantages,
    layout: Layout,
) -> Callable[..., Adaptation]:
    """Collect and adapt by turns."""
    loss = row.loss(policy)

    def adapted(shared: tuple[Meta, PRNGKey], batches: Experience) -> Params:
        meta, key = shared
        number = batches.weight.shape[0]
        # From the start each time, so that a rule sees the steps' numbers and its own state, whatever it is.
        return adapt(loss, meta, PerStep(batches), key, rule=rule, steps=number, adjoint=FirstOrder()).params

    def judged(_: tuple[()], rollouts: Rollouts) -> tuple[tuple[Any, Any, Any], Experience]:
        alone: Rollouts = jax.tree.map(lambda leaf: leaf[None], rollouts)
        return (alone.mean_return[0], alone.num_episodes[0], rollouts.broken.sum()), experience(rollouts)

    # Not sharded, see `Layout.gather`; in chunks, so that no bit hangs on how many tasks fall to this process.
    alone = Layout(chunk=layout.chunk)
    adapt_all = jax.jit(map_over_tasks(adapted, alone))
    judge_all = jax.jit(map_over_tasks(judged, alone))

    def run(meta: Meta, tasks: Any, key: PRNGKey, first: int = 0) -> Adaptation:
        count = tasks.shape[0]
        params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf))), meta.params)
        records: list[Adaptation] = []
        for step in range(steps + 1):
            rollouts: Rollouts = collect(
                env, policy, params, tasks, jax.random.fold_in(key, step), **sampling._asdict(), first_task=first
            )
            measured, seen = judge_all((), rollouts)
            records.append(Adaptation(*measured, params=params, experience=seen))
            if step < steps:
                params = adapt_all((meta, key), _stacked([record.experience for record in records]))
        return _stacked(records)

    return run


def _score(weight: Array, scale: Array, returns: Array, episodes: Array) -> Array:
    """What the adapted policy of each task is worth, less the mean over tasks, in units of the outer loss."""
    length = weight[:, -1].sum() / episodes.sum()
    return (returns - returns.mean()) / (length * scale[:, -1].mean())


def _mean_before(values: Array, weight: Array) -> Scalar:
    """The mean over all steps before adaptation of `[tasks, steps + 1, rows, time]`."""
    return mean(values[:, 0], weight[:, 0])


def _stacked(trees: list[Tree]) -> Tree:
    """What there is of each step, `[tasks, ...]`, as one tree `[tasks, steps, ...]`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *trees)
