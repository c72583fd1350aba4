"""The outer problem of one meta-iteration: its loss, gradient and curvature, as functions of what is learned.

The experience is constant, and the adapted parameters are a function of what is learned: they are computed again, by
the same `adapt` that made them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from innerloop.core.adapt import adapt
from innerloop.core.adjoints import Mixed, Reverse, Truncated
from innerloop.core.layout import Layout, map_over_tasks, mean_over_tasks
from innerloop.core.trees import merge
from innerloop.errors import InnerloopError
from innerloop.rl.objectives import Estimator, exploration, likelihood, mean, surrogate
from innerloop.rl.policies import Distribution, StochasticPolicy
from innerloop.rl.returns import Experience
from innerloop.rl.updates import OuterUpdate, Problem, Values
from innerloop.types import Adjoint, InnerRule, Metrics, Params, PerStep, PRNGKey, Scalar

TIME = 3
"""The axis of time in the experience of all tasks, `[tasks, steps + 1, rows, time, ...]`."""


def outer_problem(
    policy: StochasticPolicy,
    rule: InnerRule,
    steps: int,
    row: Estimator,
    outer: OuterUpdate,
    adjoint: Adjoint,
    layout: Layout,
) -> Callable[[Any, Experience, Array, PRNGKey], Problem]:
    """The outer loss, its gradient and curvature.

    Args:
        policy: the policy.
        rule: the inner update.
        steps: inner updates.
        row: the inner estimator.
        outer: the outer update, which says what it needs.
        adjoint: how the meta-gradient flows back through the inner updates.
        layout: how the tasks are laid out.

    Returns:
        `(constant, experience, scores, key) -> Problem`: from what is not learned of `Meta`, the experience of all
        tasks, leaves `[tasks, steps + 1, ...]`, and what each task's adapted policy is worth, `[tasks]`.
    """
    needs = outer.needs
    inner_loss, outer_loss = row.loss(policy), surrogate(policy, needs.clip)

    def one(shared: Any, item: Any) -> tuple[Scalar, Metrics]:
        """The loss of one task after adaptation."""
        learned, constant, key = shared
        data, shares, score = item
        meta = merge(learned, constant)
        early, last = (jax.tree.map(lambda leaf, part=part: leaf[part], data) for part in (slice(steps), steps))
        along = steps > 0 and (row.exploration or needs.penalty)
        adapted = adapt(
            inner_loss, meta, PerStep(early), key, rule=rule, steps=steps, adjoint=adjoint, trajectory=bool(along)
        )
        loss, metrics = outer_loss(adapted.params, last, key)
        for step in range(steps if along else 0):
            params, batch = (jax.tree.map(lambda leaf, at=step: leaf[at], tree) for tree in (adapted.trajectory, early))
            if row.exploration:
                loss += row.exploration * exploration(policy, params, batch, score)
            if needs.penalty:
                loss += needs.penalty * mean(likelihood(policy, params, batch)[2], batch.weight) / steps
        return loss, {"loss": loss, "adapted": metrics["kl"] * shares[-1]}

    def values_of(shared: Any, item: Any) -> Values:
        """The loss of one task, and both divergences."""
        learned, constant, _ = shared
        data, shares, _ = item
        metrics = one(shared, item)[1]
        if steps == 0:
            return Values(metrics["loss"], metrics["adapted"], metrics["adapted"])
        first = jax.tree.map(lambda leaf: leaf[0], data)
        divergence = mean(likelihood(policy, merge(learned, constant).params, first)[2], first.weight)
        return Values(metrics["loss"], metrics["adapted"], divergence * shares[0])

    def adapted_policy(shared: Any, item: Any) -> Distribution:
        """The distributions of one task's actions after adaptation."""
        learned, constant, key = shared
        data, observation = item
        early = jax.tree.map(lambda leaf: leaf[:steps], data)
        meta = merge(learned, constant)
        adapted = adapt(inner_loss, meta, PerStep(early), key, rule=rule, steps=steps, adjoint=_forward(adjoint))
        return policy.distribution(adapted.params, observation)

    def initial_policy(shared: Any, item: Any) -> Distribution:
        """The distributions of one task's actions before adaptation."""
        learned, constant, _ = shared
        return policy.distribution(merge(learned, constant).params, item[1])

    acted, batch = (adapted_policy, steps) if needs.divergence == "adapted" else (initial_policy, 0)
    policies = map_over_tasks(jax.checkpoint(acted) if needs.recompute else acted, layout, transposed=True)
    gradient, evaluate = mean_over_tasks(one, layout), map_over_tasks(values_of, layout)

    def every_so_manyth(leaf: Array) -> Array:
        """Of the steps; what the whole task has stays."""
        return leaf if leaf.ndim <= TIME else lax.slice_in_dim(leaf, 0, None, needs.curvature_every, axis=TIME)

    def problem(constant: Any, data: Experience, score: Array, key: PRNGKey) -> Problem:
        count = layout.everywhere(data.weight.sum(axis=(2, 3)))
        items = data, count / count.mean(axis=0), score  # the shares make the mean over tasks one over all their steps

        def curvature(learned: Params) -> Callable[[Params], Params]:
            if needs.divergence == "initial" and jax.tree.leaves(learned.rule):
                raise InnerloopError(
                    "A trust region with divergence='initial' has no curvature for what the inner rule learns (step "
                    "sizes, say), on which the policy before adaptation does not depend; use divergence='adapted', or "
                    "a rule without parameters such as rules.sgd."
                )
            some = jax.tree.map(lambda leaf: leaf[: needs.curvature_tasks or None], data)
            thinned = jax.tree.map(every_so_manyth, some)
            weight, observation = thinned.weight[:, batch], thinned.observation[:, batch]
            items = thinned if row.stepwise else some, observation
            after, forward = jax.linearize(lambda learned: policies((learned, constant, key), items), learned)
            back = jax.linear_transpose(forward, learned)
            weight = weight / layout.everywhere(weight).sum()
            slope = jax.grad(lambda now: jnp.sum(weight * policy.kl(after, now)))

            def product(vector: Params) -> Params:
                return back(jax.jvp(slope, (after,), (forward(vector),))[1])[0]

            return layout.fast_products(product)

        def values(learned: Params) -> Values:
            return jax.tree.map(jnp.mean, layout.everywhere(evaluate((learned, constant, key), items)))

        return Problem(lambda learned: gradient((learned, constant, key), items), curvature, values)

    return problem


def _forward(adjoint: Adjoint) -> Adjoint:
    """The same derivatives from an adjoint that has forward mode."""
    if isinstance(adjoint, Mixed):
        return Reverse(adjoint.unroll)
    return replace(adjoint, adjoint=_forward(adjoint.adjoint)) if isinstance(adjoint, Truncated) else adjoint
