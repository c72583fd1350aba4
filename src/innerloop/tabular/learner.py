r"""The learner of tasks in tables: an encoder that all tasks share, and a head that starts from the support set.

An episode goes through four pure functions. `encoder.encode` embeds support and query once; `head.begin` starts the
head in closed form from the embedded support set; `innerloop.adapt` takes the inner steps from there; the adapted head
scores. Meta-training differentiates through all four, and what is trained is what predicts: the program, the estimators
and the server call the same functions.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.core import algorithms
from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder
from innerloop.errors import InnerloopError
from innerloop.tabular import encoder, head, shrunk
from innerloop.tabular.design import Design
from innerloop.tabular.features import Inputs
from innerloop.types import Examples, Meta, MetaLoss, Metrics, Params, PRNGKey, Progress, Scalar, Task

POOLED_PENALTY = 1.0
"""Of the ridge regression of all training rows together."""


class Adapted(NamedTuple):
    """A task's own parameters: all that prediction needs beyond the encoder.

    Attributes:
        params: adapted layers and head.
        center: mean of the support targets, in whose units predictions are returned; 0 for classes.
        scale: their spread; 1 for classes.
        losses: support loss after 0, 1, ..., k inner steps, `[steps + 1]`.
    """

    params: Params
    center: Array
    scale: Array
    losses: Array


def initial(design: Design, sizes: tuple[int, int], classes: int, key: PRNGKey) -> Meta:
    """What is learned, before training.

    Args:
        design: what the learner is.
        sizes: counts and numbers that the encoder reads, `Preparation.sizes`.
        classes: outputs of the head; 1 for regression.
        key: randomness of the encoder.
    """
    design.require()
    encoder_key, head_key = jax.random.split(key)
    body, start = head.init(design, sizes, classes, head_key)
    params = {"encoder": encoder.init(design, sizes, encoder_key), "body": body, "head": start}
    return Meta(params, head.rule(design).init(()))


def started_from(meta: Meta, arrays: Mapping[str, np.ndarray]) -> Meta:
    """The same with other parameters of the encoder.

    Args:
        meta: what is learned, before training.
        arrays: by their names, such as `dense1/kernel`.

    Raises:
        InnerloopError: if a name or shape differs.
    """
    weights = meta.params["encoder"]
    wanted = {f"{layer}/{name}": leaf for layer, leaves in weights.items() for name, leaf in leaves.items()}
    if set(arrays) != set(wanted):
        odd = [name for name in dict.fromkeys([*wanted, *arrays]) if (name in arrays) != (name in wanted)]
        raise InnerloopError(
            f"initial differs in {', '.join(sorted(odd)[:5])} from the encoder, which has {', '.join(sorted(wanted))}."
        )
    for name, leaf in wanted.items():
        if jnp.shape(arrays[name]) != leaf.shape:
            raise InnerloopError(f"initial has {name} of shape {jnp.shape(arrays[name])}; it must be {leaf.shape}.")
    layers = {
        layer: {name: jnp.asarray(arrays[f"{layer}/{name}"], leaf.dtype) for name, leaf in leaves.items()}
        for layer, leaves in weights.items()
    }
    return meta._replace(params={**meta.params, "encoder": layers})


def started_pooled(design: Design, meta: Meta, x: Inputs, y: np.ndarray) -> Meta:
    """The same with a common head that is the ridge regression of all these rows, whatever their task.

    Args:
        design: what the learner is, with the start `shrunk`.
        meta: what is learned, before training.
        x: rows of many tasks.
        y: their targets, `[rows]`.
    """
    z = np.asarray(_read(design, 1, meta.params["encoder"], x), np.float64)
    z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    found = np.linalg.solve(z.T @ z + POOLED_PENALTY * np.eye(z.shape[1]), z.T @ np.asarray(y, np.float64))
    common, level = found[:-1, None].astype(np.float32), found[-1:].astype(np.float32)
    begun = {**meta.params["head"], "common": jnp.asarray(common), "level": jnp.asarray(level)}
    return meta._replace(params={**meta.params, "head": begun})


def learner_loss(design: Design, classes: int) -> MetaLoss:
    """The meta-loss of one episode of padded `Examples` with weights, for `outer.meta_step`.

    Args:
        design: what the learner is.
        classes: outputs of the head; 1 for regression.
    """
    row = algorithms.algorithm(design.algorithm)

    def loss(meta: Meta, task: Task, key: PRNGKey, progress: Progress = None) -> tuple[Scalar, Metrics]:
        support_key, query_key, inner_key = jax.random.split(key, 3)
        task, _, _ = head.standardised(design, task)
        weights = meta.params["encoder"]
        support = task.support._replace(x=_read(design, classes, weights, task.support.x, support_key))
        query = task.query._replace(x=_read(design, classes, weights, task.query.x, query_key))
        if design.kind == "classification":  # a class that the support set lacks cannot be told
            seen = jnp.zeros(classes).at[support.y].max(head.weights_of(support))
            query = query._replace(weight=head.weights_of(query) * (seen[query.y] > 0))
        inner = algorithms.build(
            row, head.task_loss(design, support, classes), rule=head.rule(design), steps=design.steps
        )
        task = Task(head.balanced(design, support, classes), query)
        value, metrics = inner(head.begin(design, meta, support, classes), task, inner_key)
        if design.kind == "classification":
            return value, metrics
        # Tasks whose targets vary much would decide alone; and what is compared must not depend on the units.
        size = head.variance(support, query)
        return value / size, {name: metric / size for name, metric in metrics.items()}

    return loss


def adapt_task(design: Design, classes: int, meta: Meta, support: Examples, *, trajectory: bool = False) -> Adapted:
    """Adapt to one task.

    Args:
        design: what the learner is.
        classes: outputs of the head, at least as many as the support set has classes.
        meta: what was learned.
        support: encoded and padded support rows with weights.
        trajectory: keep the parameters after 0, 1, ..., k steps, with a leading axis.

    Returns:
        The task's own parameters.
    """
    task, center, scale = head.standardised(design, Task(support, support))
    support = task.support._replace(x=_read(design, classes, meta.params["encoder"], support.x))
    loss = head.task_loss(design, support, classes)
    support = head.balanced(design, support, classes)
    started, key = head.begin(design, meta, task.support._replace(x=support.x), classes), jax.random.key(0)
    steps = 0 if design.algorithm == "joint" else design.steps
    adapted = adapt(
        loss, started, support, key, rule=head.rule(design), steps=steps, adjoint=FirstOrder(), trajectory=trajectory
    )
    final = adapted.params if not trajectory else jax.tree.map(lambda leaf: leaf[-1], adapted.trajectory)
    last = loss(final, support, key)[0]
    kept = adapted.trajectory if trajectory else adapted.params
    return Adapted(kept, center, scale, jnp.append(adapted.losses, last))


def outputs(design: Design, classes: int, meta: Meta, adapted: Adapted, x: Inputs) -> Array:
    """What an adapted task says of rows: logits `[rows, classes]`, or targets in the task's own units `[rows, 1]`."""
    return _scores(design, classes, adapted, _read(design, classes, meta.params["encoder"], x))


@partial(jax.jit, static_argnames=("design", "classes", "trajectory"))
def adapt_tasks(design: Design, classes: int, meta: Meta, supports: Examples, *, trajectory: bool = False) -> Adapted:
    """`adapt_task` over many tasks, compiled: supports with leaves `[tasks, rows, ...]`."""
    one = lambda support: adapt_task(design, classes, meta, support, trajectory=trajectory)  # noqa: E731
    return jax.vmap(one)(supports)


@partial(jax.jit, static_argnames=("design", "classes"))
def outputs_of_tasks(design: Design, classes: int, meta: Meta, adapted: Adapted, x: Inputs) -> Array:
    """`outputs` over many tasks, compiled: leaves `[tasks, ...]`."""
    return jax.vmap(lambda adapted, x: outputs(design, classes, meta, adapted, x))(adapted, x)


@partial(jax.jit, static_argnames=("design", "classes"))
def outputs_of_members(design: Design, classes: int, meta: Meta, adapted: Adapted, x: Inputs) -> Array:
    """What several adaptations say of the same rows, compiled: `[members, rows, ...]`; the rows are embedded once."""
    z = _read(design, classes, meta.params["encoder"], x)
    return jax.vmap(lambda member: _scores(design, classes, member, z))(adapted)


@partial(jax.jit, static_argnames=("design", "classes"))
def outputs_along(design: Design, classes: int, meta: Meta, adapted: Adapted, x: Inputs) -> Array:
    """What tasks adapted with `trajectory` say after 0, 1, ..., k steps, compiled: `[tasks, steps + 1, rows, ...]`."""

    def one(adapted: Adapted, x: Inputs) -> Array:
        z = _read(design, classes, meta.params["encoder"], x)
        return jax.vmap(lambda params: _scores(design, classes, adapted._replace(params=params), z))(adapted.params)

    return jax.vmap(one)(adapted, x)


def _read(design: Design, classes: int, weights: Params, x: Inputs, key: PRNGKey | None = None) -> Array:
    """What the head reads of rows: the embedding, beside which `shrunk` reads the features themselves."""
    z = encoder.encode(design, weights, x, key)
    return shrunk.beside(design, z, x) if design.start == "shrunk" else z


def _scores(design: Design, classes: int, adapted: Adapted, z: Array) -> Array:
    scores = head.inner_model(design, z.shape[-1], classes).apply(adapted.params, z)
    return scores * adapted.scale + adapted.center if design.kind == "regression" else scores
