r"""The outer loop over inner models that live for longer than the meta-gradient looks back.

For thousands of inner steps one meta-gradient through all of them is slow to come. So the inner models persist from
meta-step to meta-step: each meta-step moves every one of them on by a few inner steps, and differentiates through these
and perhaps some more, as if the parameters at the window's beginning were given. A model that has lived out its life
starts again from the initialisation, on another task. Several of different ages live side by side, so that the gradient
is of all ages at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from innerloop.core.adapt import adapt, beginning
from innerloop.core.adjoints import Mixed
from innerloop.core.checks import judged, require_adjoint
from innerloop.core.layout import Layout
from innerloop.core.objectives import last_step
from innerloop.core.outer import MetaState, init, moved, sample_task
from innerloop.core.trees import differentiable, merge, split
from innerloop.errors import InnerloopError
from innerloop.types import (
    Adapted,
    Adjoint,
    InnerRule,
    InnerState,
    Loss,
    Meta,
    Metrics,
    Objective,
    Params,
    PRNGKey,
    StatefulLoss,
    Task,
    TaskDistribution,
)


@dataclass(frozen=True)
class Lifetime:
    """How long inner models live, and how far back the meta-gradient looks.

    Attributes:
        length: inner steps of a life, a multiple of `stride`.
        stride: inner steps by which a meta-step moves every model on.
        window: inner steps that a meta-step differentiates through, a multiple of `stride`; as many unless given.
            Longer windows overlap: they begin where the model stands and look past where it will stand next.
        population: number of inner models, whose ages are spread evenly over a life.
    """

    length: int
    stride: int = 1
    window: int | None = None
    population: int = 1

    def __post_init__(self) -> None:
        if min(self.length, self.stride, self.population) < 1:
            raise InnerloopError(f"{self} needs at least 1 step, 1 step at a time and 1 model.")
        if self.length % self.stride:
            raise InnerloopError(f"{self}: a life of {self.length} steps is not a multiple of stride={self.stride}.")
        if self.window is not None and (self.window < self.stride or self.window % self.stride):
            raise InnerloopError(
                f"{self}: the window must be a multiple of stride={self.stride}, and at least that long."
            )
        if (self.window or self.stride) > self.length:
            raise InnerloopError(f"{self}: the window is longer than the life of {self.length} steps; shorten it.")


class LifetimeState(NamedTuple):
    """Everything that such a training is.

    Attributes:
        outer: what is learned, the outer optimiser's state, the step and the key.
        members: where each inner model stands, leaves `[population, ...]`.
    """

    outer: MetaState
    members: InnerState


class Lifetimes(NamedTuple):
    """The two halves of a training over lives.

    Attributes:
        init: `(params, key) -> state`.
        step: `(state, tasks) -> (state, metrics)`, pure; compile it.
    """

    init: Callable[[Params, PRNGKey], LifetimeState]
    step: Callable[[LifetimeState, TaskDistribution], tuple[LifetimeState, Metrics]]


def lifetimes(
    loss: Loss | StatefulLoss,
    optimizer: optax.GradientTransformation,
    lifetime: Lifetime,
    *,
    rule: InnerRule,
    adjoint: Adjoint = Mixed(),
    objective: Objective = last_step,
    query_loss: Loss | StatefulLoss | None = None,
    new_tasks: bool = True,
    layout: Layout = Layout(),
) -> Lifetimes:
    r"""Outer steps over a population of inner models that persist, with truncated meta-gradients.

    With $\phi$ the inner model of a member, $\eta$ what the outer loop learns and a window of $w$ steps, the meta-step
    descends the mean over the members of

    $$ \mathcal{L}\bigl(\phi_{t+w}(\operatorname{sg}(\phi_t), \eta)\bigr), \qquad
       \phi_0 = \text{the initialisation, which is differentiated,} $$

    and leaves the member at $\phi_{t + \text{stride}}$.

    Args:
        loss: the inner loss. Leaves that the rule does not adapt (weights of examples, say) only the outer loop learns.
        optimizer: the outer optimiser.
        lifetime: how long models live, and how far back the meta-gradient looks.
        rule: the inner update.
        adjoint: how the meta-gradient flows back through a window.
        objective: what is done with the parameters at the window's end.
        query_loss: the loss on the query set; `loss` unless given.
        new_tasks: draw a task for every `stride` steps (batches of one large problem) instead of one for each life.
            `PerStep` supports have `stride` batches.
        layout: of which `products` is used; the members are computed together.

    Returns:
        `init` and `step`. The metrics are those of `meta_loss`, of the window.

    Raises:
        InnerloopError: if the objective changes over training or asks for the trajectory.

    Reference:
        Calian et al.: DataRater, 2025, arXiv 2505.17895. Wu et al.: Understanding Short-Horizon Bias in Stochastic
        Meta-Optimization, 2018, arXiv 1803.02021, on what truncation costs.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from innerloop import Lifetime, lifetimes, rules, tasks
        >>> loss = lambda theta, batch, key: (jnp.mean((theta * batch.x - batch.y) ** 2), {})
        >>> lives = lifetimes(loss, optax.adam(0.01), Lifetime(100, stride=5, population=4), rule=rules.meta_sgd(0.001))
        >>> state, step = lives.init(jnp.array(0.0), jax.random.key(0)), jax.jit(lives.step)
        >>> for _ in range(3):
        ...     state, metrics = step(state, tasks.Sinusoids(shots=5, queries=5))
        >>> print(state.members.step)
        [15 15 15 15]
    """
    require_adjoint(adjoint)
    if objective.trajectory or objective.needs_progress:
        raise InnerloopError("lifetimes takes objectives of a window's end or of its losses: last_step or online().")
    stride, chunks = lifetime.stride, (lifetime.window or lifetime.stride) // lifetime.stride
    turns = lifetime.length // stride
    offsets = jnp.arange(lifetime.population) * turns // lifetime.population

    def member(meta: Meta, stored: InnerState, at: Any, tasks: TaskDistribution, key: PRNGKey) -> tuple[Array, Any]:
        fresh, life, turn, number = at
        life_key = jax.random.fold_in(jax.random.fold_in(key, number), life)
        begun = beginning(loss, meta, rule)._replace(step=jnp.int32(0))
        stands = jax.tree.map(lambda new, old: jnp.where(fresh, new, lax.stop_gradient(old)), begun, stored)
        runs: list[Adapted] = []
        task = Task(None, None)
        for chunk in range(chunks):
            task = sample_task(tasks, jax.random.fold_in(life_key, 1 + turn + chunk if new_tasks else 0))
            start = runs[-1].end if runs else stands
            run = adapt(loss, meta, task.support, life_key, rule=rule, steps=stride, adjoint=adjoint, start=start)
            runs.append(run)
        joined = lambda *leaves: jnp.concatenate(leaves)  # noqa: E731
        window = runs[-1]._replace(
            losses=joined(*(run.losses for run in runs)),
            metrics=jax.tree.map(joined, *(run.metrics for run in runs)),
        )
        eval_loss = judged(query_loss or loss, window.end.state)
        mask, query_key = rule.adapts(meta.params), jax.random.fold_in(life_key, window.end.step)
        value, after = objective.value(eval_loss, meta, window, mask, task.query, query_key, None)
        metrics = {f"{name}_after": metric for name, metric in after.items()}
        before = {"loss": window.losses, **window.metrics}
        metrics |= {f"{name}_before": metric[0] for name, metric in before.items()}
        return value, lax.stop_gradient((metrics | window.diagnostics, runs[0].end))

    def start(params: Params, key: PRNGKey) -> LifetimeState:
        outer = init(params, rule, optimizer, key)
        begun = beginning(loss, outer.meta, rule)._replace(step=jnp.int32(0))
        repeated = lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], lifetime.population, axis=0)  # noqa: E731
        return LifetimeState(outer, jax.tree.map(repeated, begun))

    def step(state: LifetimeState, tasks: TaskDistribution) -> tuple[LifetimeState, Metrics]:
        trainable, constant = split(state.outer.meta, differentiable(state.outer.meta))
        places = state.outer.step + offsets
        turn = places % turns
        fresh = (turn == 0) | (state.outer.step == 0)
        at = fresh, places // turns, turn, jnp.arange(lifetime.population)

        def mean(trainable: Any, members: InnerState, at: Any, tasks: TaskDistribution, key: PRNGKey) -> Any:
            meta = merge(trainable, constant)
            values, rest = jax.vmap(lambda stored, at: member(meta, stored, at, tasks, key))(members, at)
            return jnp.mean(values), rest

        gradient = layout.fast_products(jax.grad(mean, has_aux=True))
        gradients, (metrics, members) = gradient(trainable, state.members, at, tasks, state.outer.key)
        metrics = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), metrics)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return LifetimeState(moved(state.outer, gradients, optimizer), members), metrics

    return Lifetimes(start, step)
