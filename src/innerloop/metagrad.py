r"""From (loss, rule, steps, adjoint, objective) to the meta-loss of one task, whose gradient is the meta-gradient."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from innerloop.adapt import adapt
from innerloop.adjoint import Adjoint, Mixed
from innerloop.checks import checked, require_adjoint
from innerloop.errors import InnerloopError
from innerloop.trees import merge, split
from innerloop.types import Adapted, Batch, InnerRule, Loss, Mask, Meta, MetaLoss, Metrics, PRNGKey, Scalar, Task


class Objective(NamedTuple):
    """What is done with the adapted parameters.

    Attributes:
        value: `(loss, meta, adapted, mask, query, key) -> (scalar, metrics)`, differentiated with respect to `meta`;
            `mask` marks the leaves that the inner loop adapts, and the metrics include the query loss of the adapted
            parameters as `loss`.
        trajectory: whether it needs the parameters after every inner step.
    """

    value: Callable[[Loss, Meta, Adapted, Mask, Batch, PRNGKey], tuple[Scalar, Metrics]]
    trajectory: bool = False


def _last_step(
    loss: Loss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey
) -> tuple[Scalar, Metrics]:
    value, metrics = loss(adapted.params, query, key)
    return value, {"loss": value, **metrics}


def _towards_adapted(
    loss: Loss, meta: Meta, adapted: Adapted, mask: Mask, query: Batch, key: PRNGKey
) -> tuple[Scalar, Metrics]:
    end, shared = split(adapted.params, mask)
    target = lax.stop_gradient(end)
    distance = jax.tree.map(lambda start, end: 0.5 * jnp.sum((start - end) ** 2), split(meta.params, mask)[0], target)
    value, metrics = loss(merge(target, shared), query, key)
    return jax.tree.reduce(jnp.add, distance) + value, {"loss": value, **metrics}


last_step = Objective(_last_step)
r"""The query loss after the last inner step, $L(\theta_k, \text{query})$: the objective of MAML."""

towards_adapted = Objective(_towards_adapted)
r"""$\tfrac12 \lVert\theta - \theta_k\rVert^2$ with $\theta_k$ held fixed, whose gradient is that of Reptile, plus the
query loss as a function of the leaves that the inner loop leaves alone, which would otherwise not be learned."""


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

    The gradient of its mean over tasks is the meta-gradient; `innerloop.outer` takes it.

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
        loss's own metrics with the same endings.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Meta, Task, meta_loss, rules
        >>> loss = lambda theta, batch, key: (0.5 * jnp.mean((theta - batch) ** 2), {})
        >>> task = Task(support=jnp.array([1.0]), query=jnp.array([2.0]))
        >>> maml = meta_loss(loss, rule=rules.sgd(0.5), steps=1)
        >>> gradient, metrics = jax.grad(maml, has_aux=True)(Meta(jnp.array(0.0), ()), task, jax.random.key(0))
        >>> print(gradient.params)  # (1 - 0.5) * (0.5 - 2.0)
        -0.75
    """
    require_adjoint(adjoint)
    judge = checked(query_loss or loss)

    def meta_loss(meta: Meta, task: Task, key: PRNGKey) -> tuple[Scalar, Metrics]:
        if not isinstance(task, Task):
            raise InnerloopError(f"A task must be Task(support, query), not a {type(task).__name__}.")
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

    return meta_loss
