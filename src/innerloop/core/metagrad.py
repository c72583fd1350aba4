r"""From (loss, rule, steps, adjoint, objective) to the meta-loss of one task, whose gradient is the meta-gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from innerloop.core.adapt import adapt
from innerloop.core.adjoints import Implicit, Mixed
from innerloop.core.checks import checked, judged, require_adjoint
from innerloop.core.objectives import last_step
from innerloop.core.trees import merge, split
from innerloop.errors import InnerloopError
from innerloop.types import (
    Adjoint,
    InnerRule,
    Loss,
    Meta,
    MetaLoss,
    Metrics,
    Objective,
    Params,
    PRNGKey,
    Progress,
    Scalar,
    State,
    StatefulLoss,
    Task,
)


def meta_loss(
    loss: Loss | StatefulLoss,
    *,
    rule: InnerRule,
    steps: int,
    adjoint: Adjoint = Mixed(),
    objective: Objective = last_step,
    query_loss: Loss | StatefulLoss | None = None,
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
        query_loss: the loss on the query set; `loss` unless given. A `StatefulLoss` sees the state at the end of the
            inner loop.

    Returns:
        `(meta, task, key) -> (scalar, metrics)`. The metrics have `loss_before`, the support loss at the initialisation
        (an estimate of the loss before adaptation that costs nothing), `loss_after`, the query loss after it, and the
        loss's own metrics with the same endings. A fourth argument, `progress`, is the share of training done, from 0
        to 1, for an objective or adjoint that changes over training; `innerloop.meta_step(..., iterations=...)` gives
        it.

        Under `Implicit` there is `stationarity` too, how far the inner loop ended from its minimum, from 0 to 1;
        `implicit_diagnostics` has the rest.

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

    def meta_loss(meta: Meta, task: Task, key: PRNGKey, progress: Progress = None) -> tuple[Scalar, Metrics]:
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
            progress=progress,
        )
        mask = rule.adapts(meta.params)
        eval_loss = judged(query_loss or loss, adapted.end.state)
        value, after = objective.value(eval_loss, meta, adapted, mask, task.query, query_key, progress)
        metrics = {f"{name}_after": metric for name, metric in after.items()}
        if steps:
            before = {"loss": adapted.losses, **adapted.metrics}
            metrics |= {f"{name}_before": metric[0] for name, metric in before.items()}
        return value, lax.stop_gradient(metrics | adapted.diagnostics)

    return meta_loss


def implicit_diagnostics(
    loss: Loss, *, rule: InnerRule, steps: int, adjoint: Implicit, query_loss: Loss | None = None
) -> Callable[[Meta, Task, PRNGKey], Metrics]:
    r"""Whether the implicit gradient of a task can be trusted.

    It solves once more the linear system of the backward pass, $(H + \lambda I)\,u = \nabla L(\phi^*, \text{query})$,
    for nothing but to see whether that succeeds: to be computed where training is logged, not at every step.

    Args:
        loss: the inner loss.
        rule: the inner update.
        steps: number of inner updates, at least 1.
        adjoint: the adjoint.
        query_loss: the loss on the query set; `loss` unless given.

    Returns:
        `(meta, task, key) -> metrics`: `unsolved`, 1 where the system was not solved to the solver's tolerance, so that
        its mean is the share of such tasks; and `stationarity`, how far the inner loop ended from its minimum, from 0
        at the minimum to 1.
    """
    inner, outer = checked(loss), checked(query_loss or loss)

    def diagnostics(meta: Meta, task: Task, key: PRNGKey) -> Metrics:
        adapt_key, query_key = jax.random.split(key)
        adapted = adapt(loss, meta, task.support, adapt_key, rule=rule, steps=steps, adjoint=adjoint)
        end, fixed = split(adapted.params, rule.adapts(meta.params))
        cotangent = jax.grad(lambda end: outer(merge(end, fixed), task.query, query_key)[0])(end)

        def at_end(end: Params, key: PRNGKey) -> tuple[Scalar, tuple[State, Metrics]]:
            value, metrics = inner(merge(end, fixed), task.support, key)
            return value, (None, metrics)

        solved = adjoint.solved(at_end, end, jax.random.fold_in(adapt_key, steps - 1), cotangent)
        return {"unsolved": jnp.where(solved, 0.0, 1.0), **adapted.diagnostics}

    return diagnostics
