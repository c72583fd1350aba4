r"""From (loss, rule, steps, adjoint, objective) to the meta-loss of one task, whose gradient is the meta-gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from innerloop.core.adapt import adapt
from innerloop.core.adjoints import Adjoint, Implicit, Mixed
from innerloop.core.checks import checked, require_adjoint
from innerloop.core.trees import differentiable, merge, split
from innerloop.errors import InnerloopError
from innerloop.types import Adapted, Batch, InnerRule, Loss, Mask, Meta, MetaLoss, Metrics, PRNGKey, Scalar, Task


class Objective(NamedTuple):
    """What is done with the adapted parameters.

    Attributes:
        value: `(loss, meta, adapted, mask, query, key) -> (scalar, metrics)`, differentiated with respect to `meta`;
            `mask` marks the leaves that the inner loop adapts, and the metrics include the query loss of the adapted
            parameters as `loss`.
        trajectory: whether it needs the parameters after every inner step.
        at: `progress -> objective` of one that changes over training, progress being the share done, from 0 to 1.
    """

    value: Callable[[Loss, Meta, Adapted, Mask, Batch, PRNGKey], tuple[Scalar, Metrics]]
    trajectory: bool = False
    at: "Callable[[Any], Objective] | None" = None


def _last_step(
    loss: Loss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey
) -> tuple[Scalar, Metrics]:
    value, metrics = loss(adapted.params, query, key)
    return value, {"loss": value, **metrics}


def _reptile(
    loss: Loss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey
) -> tuple[Scalar, Metrics]:
    end, shared = split(adapted.params, mask)
    target = lax.stop_gradient(end)
    distance = jax.tree.map(lambda start, end: 0.5 * jnp.sum((start - end) ** 2), split(meta.params, mask)[0], target)
    value, metrics = loss(merge(target, shared), query, key)
    return jax.tree.reduce(jnp.add, distance) + value, {"loss": value, **metrics}


last_step = Objective(_last_step)
r"""The query loss after the last inner step, $L(\theta_k, \text{query})$: the objective of MAML."""

reptile = Objective(_reptile)
r"""$\tfrac12 \lVert\theta - \theta_k\rVert^2$ with $\theta_k$ held fixed, whose gradient is that of Reptile, plus the
query loss as a function of the leaves that the inner loop leaves alone, which would otherwise not be learned."""


def multi_step(until: float = 0.15) -> Objective:
    r"""The query loss after *every* inner step, weighted, so that the gradient need not come from the far end alone.

    $$ \sum_{t=1}^{k} w_t\, L(\theta_t, \text{query}), \qquad w_t = \frac{1 - s}{k} \ (t < k), \qquad
       w_k = 1 - \frac{(k - 1)(1 - s)}{k}, \qquad s = \min\Bigl(\frac{\text{progress}}{\text{until}}, 1\Bigr) : $$

    all steps alike at the beginning of training, and from the share `until` of it on the last step alone, when the
    others are no longer computed. (The released code moves the weights once an epoch, and leaves 0.03/k with each early
    step.)

    Args:
        until: the share of training over which the weights move to the last step, positive.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502, section 4.
    """
    if not 0 < until <= 1:
        raise InnerloopError(f"multi_step(until={until}) needs a share of training between 0 and 1.")

    def at(progress: Any) -> Objective:
        def value(
            loss: Loss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey
        ) -> tuple[Scalar, Metrics]:
            path = jax.tree.map(lambda leaf: leaf[1:], adapted.trajectory)
            steps = jax.tree.leaves(path)[0].shape[0]

            def every() -> tuple[Scalar, Metrics]:
                values, metrics = jax.vmap(lambda params: loss(params, query, key))(path)
                early = (1 - jnp.clip(progress / until, 0.0, 1.0)) / steps
                weights = jnp.full(steps, early).at[-1].set(1 - (steps - 1) * early).astype(values.dtype)
                metrics = jax.tree.map(lambda leaf: leaf[-1], metrics)
                return weights @ values, {"loss": values[-1], **metrics}

            def last() -> tuple[Scalar, Metrics]:
                return _last_step(loss, meta, adapted, mask, query, key)

            return lax.cond(progress < until, every, last) if steps else last()

        return Objective(value, trajectory=True)

    return Objective(_last_step, trajectory=True, at=at)


def meta_loss(
    loss: Loss,
    *,
    rule: InnerRule,
    steps: int,
    adjoint: Adjoint = Mixed(),
    objective: Objective = last_step,
    query_loss: Loss | None = None,
) -> MetaLoss:
    r"""The loss of one task after adaptation, as a function of the initialisation.

    $$ \mathcal{L}_i(\theta) = L\bigl(\theta_k(\theta, \text{support}_i),\ \text{query}_i\bigr) $$

    The gradient of its mean over tasks is the meta-gradient; `innerloop.core.outer` takes it.

    Args:
        loss: the inner loss.
        rule: the inner update.
        steps: number of inner updates; 0 gives joint training on the query sets.
        adjoint: how the meta-gradient flows back through the inner loop.
        objective: what is done with the adapted parameters.
        query_loss: the loss on the query set; `loss` unless given.

    Returns:
        `(meta, task, key) -> (scalar, metrics)`. The metrics have `loss_before`, the support loss at the initialisation
        (an estimate of the loss before adaptation that costs nothing), `loss_after`, the query loss after it, and the
        loss's own metrics with the same endings. A fourth argument, `progress`, is the share of training done, from 0
        to 1, for an objective or adjoint that changes over training; `innerloop.meta_step(..., iterations=...)` gives
        it.

        Under `Implicit` there are two more metrics: `unsolved`, 1 where the linear system of the backward pass was not
        solved to its tolerance, so that its mean is the share of such tasks; and `stationarity`, how far the inner loop
        ended from its minimum, from 0 to 1. The meta-loss then is differentiable in `meta` alone.

    Raises:
        InnerloopError: when used without `progress`, if the objective or the adjoint changes over training.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Meta, Task, meta_loss
        >>> from innerloop.core import rules
        >>> loss = lambda theta, batch, key: (0.5 * jnp.mean((theta - batch) ** 2), {})
        >>> task = Task(support=jnp.array([1.0]), query=jnp.array([2.0]))
        >>> maml = meta_loss(loss, rule=rules.sgd(0.5), steps=1)
        >>> gradient, metrics = jax.grad(maml, has_aux=True)(Meta(jnp.array(0.0), ()), task, jax.random.key(0))
        >>> print(gradient.params)  # (1 - 0.5) * (0.5 - 2.0)
        -0.75
    """
    require_adjoint(adjoint)
    judge = checked(query_loss or loss)

    def value_of(
        meta: Meta, task: Task, key: PRNGKey, objective: Objective, adjoint: Adjoint
    ) -> tuple[Scalar, Metrics]:
        adapt_key, query_key = jax.random.split(key)
        adapted = adapt(
            loss,
            meta,
            task.support,
            adapt_key,
            rule=rule,
            steps=steps,
            adjoint=adjoint,
            trajectory=objective.trajectory,
        )
        value, after = objective.value(judge, meta, adapted, rule.adapts(meta.params), task.query, query_key)
        metrics = {f"{name}_after": metric for name, metric in after.items()}
        if steps:
            before = {"loss": adapted.losses, **adapted.metrics}
            metrics |= {f"{name}_before": metric[0] for name, metric in before.items()}
        return value, lax.stop_gradient(metrics)

    def meta_loss(meta: Meta, task: Task, key: PRNGKey, progress: Any = None) -> tuple[Scalar, Metrics]:
        if not isinstance(task, Task):
            raise InnerloopError(f"A task must be Task(support, query), not a {type(task).__name__}.")
        now, how = _now(objective, progress), _now(adjoint, progress)
        if not isinstance(how, Implicit):
            return value_of(meta, task, key, now, how)
        learned, constant = split(meta, differentiable(meta))

        def counted(learned: Meta, tally: Any) -> tuple[Scalar, Metrics]:
            return value_of(merge(learned, constant), task, key, now, replace(how, tally=tally))

        # What the backward pass has to tell comes as the gradient of the tally, so the gradient is taken here.
        (value, metrics), (gradient, told) = jax.value_and_grad(counted, (0, 1), has_aux=True)(learned, jnp.zeros(2))
        value = lax.stop_gradient(value) + _with_gradient(lax.stop_gradient(gradient), learned)
        return value, metrics | {"unsolved": told[0], "stationarity": told[1]}

    return meta_loss


def _now(value: Any, progress: Any) -> Any:
    """What a value that changes over training is at that progress; other values stay as they are."""
    at = getattr(value, "at", None)
    if at is None:
        return value
    if progress is None:
        raise InnerloopError(
            f"{type(value).__name__} changes over training, so it must be told how far that is: use "
            "meta_step(iterations=...), or hand the progress, from 0 to 1, to the meta-loss."
        )
    return at(progress)


def _with_gradient(gradient: Any, at: Any) -> Scalar:
    """Zero, with that gradient."""
    parts = jax.tree.map(lambda g, x: jnp.sum(g * (x - lax.stop_gradient(x))), gradient, at)
    return jax.tree.reduce(jnp.add, parts)
