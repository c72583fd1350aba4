r"""What adaptation achieves on held-out tasks: losses and metrics after 0, 1, ..., k inner steps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder
from innerloop.core.checks import judged
from innerloop.core.layout import Layout, map_over_tasks
from innerloop.core.outer import sample_task
from innerloop.types import (
    Adjoint,
    InnerRule,
    Loss,
    Meta,
    Metrics,
    Params,
    PRNGKey,
    State,
    StatefulLoss,
    Task,
    TaskDistribution,
)


class Summary(NamedTuple):
    """Mean over tasks and half the width of its 95 % interval."""

    mean: np.ndarray
    ci95_half_width: np.ndarray


def adaptation_curve(
    loss: Loss | StatefulLoss,
    meta: Meta,
    task: Task,
    key: PRNGKey,
    *,
    rule: InnerRule,
    steps: int,
    query_losses: Mapping[str, Loss | StatefulLoss],
    adjoint: Adjoint = FirstOrder(),
    ensemble: bool = False,
    last: bool = False,
) -> Metrics:
    """Query losses and metrics of one task after 0, 1, ..., `steps` inner steps.

    Args:
        loss: the inner loss.
        meta: what was learned.
        task: the task.
        key: randomness of the losses.
        rule: the inner rule.
        steps: number of inner steps.
        query_losses: the losses to evaluate by, for example one loss with transductive and inductive normalisation.
        adjoint: runs the inner loop; it matters where the inner loop itself depends on it, as that of `Implicit` does.
        ensemble: whether `meta` is several, along a leading axis of all leaves, each to be adapted on its own; the
            query losses then see the parameters of all, see `models.ensemble`.
        last: whether to evaluate after the last inner step alone.

    Returns:
        `"<name>/loss"` and `"<name>/<metric>"` for every query loss, each `[steps + 1, ...]`, or `[1, ...]` if `last`.
    """
    adapt_key, query_key = jax.random.split(key)

    def adapted(meta: Meta) -> tuple[Params, State]:
        run = adapt(loss, meta, task.support, adapt_key, rule=rule, steps=steps, adjoint=adjoint, trajectory=not last)
        if last:
            return jax.tree.map(lambda leaf: leaf[None], (run.params, run.end.state))
        return run.trajectory, run.states

    if ensemble:
        points = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), lax.map(adapted, meta))
    else:
        points = adapted(meta)

    def scores_of(point: tuple[Params, State]) -> Metrics:
        scores = {}
        params, state = point
        for name, query_loss in query_losses.items():
            value, metrics = judged(query_loss, state)(params, task.query, query_key)
            scores |= {f"{name}/{metric}": number for metric, number in {"loss": value, **metrics}.items()}
        return scores

    return lax.map(scores_of, points)


def evaluate(
    loss: Loss | StatefulLoss,
    meta: Meta,
    tasks: TaskDistribution,
    key: PRNGKey,
    *,
    rule: InnerRule,
    steps: int,
    num_tasks: int = 600,
    query_losses: Mapping[str, Loss | StatefulLoss] | None = None,
    layout: Layout = Layout(),
    adjoint: Adjoint = FirstOrder(),
    ensemble: bool = False,
    last: bool = False,
) -> dict[str, Array]:
    """Adaptation curves over tasks that the key fixes: the same key gives every method the same tasks.

    Pure; compile it with `jax.jit(functools.partial(evaluate, loss, rule=..., steps=...))`.

    Args:
        loss: the inner loss.
        meta: what was learned.
        tasks: the distribution of held-out tasks.
        key: fixes the tasks; task `i` derives from `fold_in(key, i)`.
        rule: the inner rule.
        steps: number of inner steps.
        num_tasks: number of tasks.
        query_losses: the losses to evaluate by; `{"query": loss}` unless given.
        layout: how the tasks are laid out.
        adjoint: runs the inner loop, see `adaptation_curve`.
        ensemble: whether `meta` is several that predict together, see `adaptation_curve`.
        last: whether to evaluate after the last inner step alone, which costs one query pass for each task.

    Returns:
        For each `"<name>/<metric>"` an array `[num_tasks, steps + 1]`, or `[num_tasks, 1]` if `last`; see `summarise`.
    """
    eval_losses = query_losses or {"query": loss}
    tasks = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, tasks)

    def one(shared: Any, index: Array) -> Metrics:
        meta, tasks, key = shared
        sample_key, task_key = jax.random.split(jax.random.fold_in(key, index))
        task = sample_task(tasks, sample_key)
        return adaptation_curve(
            loss,
            meta,
            task,
            task_key,
            rule=rule,
            steps=steps,
            query_losses=eval_losses,
            adjoint=adjoint,
            ensemble=ensemble,
            last=last,
        )

    return map_over_tasks(one, layout)((meta, tasks, key), jnp.arange(num_tasks))


def summarise(values: Array | np.ndarray) -> Summary:
    r"""Mean over tasks with its 95 % interval as in the paper: $\bar x \pm 1.96\,\sigma/\sqrt n$, population $\sigma$.

    Args:
        values: `[tasks, ...]`.

    Example:
        >>> import numpy as np
        >>> mean, half_width = summarise(np.array([[1.0], [3.0]]))
        >>> print(mean, half_width.round(3))
        [2.] [1.386]
    """
    values = np.asarray(values, np.float64)
    return Summary(values.mean(axis=0), 1.96 * values.std(axis=0) / np.sqrt(values.shape[0]))
