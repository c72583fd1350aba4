r"""The head of a task: it starts in closed form from the embedded support set, is adapted by inner steps, and scores.

It starts from *prototypes*, $w_c = 2s\,p_c$ and $b_c = -s\,\lVert p_c\rVert^2$ with the mean embedding $p_c$ of class
$c$, so that before the first step the logits are squared distances to the prototypes; or from *ridge* regression of
the targets on the embedding. The temperature $s$, the ridge penalty and the inner step size are learned.

Reference:
    Triantafillou et al.: Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples, 2020,
    arXiv 1903.03096 (proto-MAML); Bertinetto et al.: Meta-learning with Differentiable Closed-Form Solvers, 2019,
    arXiv 1805.08136 (ridge).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from innerloop import models
from innerloop.core import losses, rules
from innerloop.models import Model
from innerloop.models.layers import glorot
from innerloop.tabular import shrunk
from innerloop.tabular.design import Design
from innerloop.types import Examples, InnerRule, Loss, Meta, Params, PRNGKey, Task

ABSENT = -1e9
"""The logit of a class that the support set lacks."""
SMALLEST_SCALE = 1e-6
SMALLEST_VARIANCE = 1e-3
"""Of the targets of an episode, in their units, so that one without variation does not count for all others."""


def init(design: Design, sizes: tuple[int, int], classes: int, key: PRNGKey) -> tuple[Params, Params]:
    """What all tasks share of the head, before training.

    Args:
        design: what the learner is.
        sizes: counts and numbers that a row has.
        classes: outputs of the head; 1 for regression.
        key: randomness of further adapted layers.

    Returns:
        The further layers, and what the start of a head is computed with.
    """
    body = inner_model(design, design.widths[-1], classes).init(key)
    if design.start == "shrunk":
        return {}, shrunk.init(design, sizes, classes)
    last = body.pop("head")["kernel"].shape[0]
    return body, {
        "log_scale": jnp.zeros(()),
        "log_ridge": jnp.zeros(()),
        "prior": jnp.zeros(()),
        "common": jnp.zeros((last, classes)),
    }


def begin(design: Design, meta: Meta, support: Examples, classes: int) -> Meta:
    """The task's own parameters before the first inner step.

    Args:
        design: what the learner is.
        meta: what was learned.
        support: the embedded support set, with weights.
        classes: outputs of the head.

    Returns:
        Adapted layers and head, with the inner rule's parameters.
    """
    body, learned = meta.params["body"], meta.params["head"]
    z = support.x
    if design.start == "shrunk":
        return Meta({"head": shrunk.begin(design, learned, support, classes)}, meta.rule)
    if design.adapted:
        last = design.adapted[-1]
        eye = {"kernel": jnp.eye(last), "bias": jnp.zeros(last)}
        z = jax.nn.relu(inner_model(design, z.shape[-1], last).apply({**body, "head": eye}, z)) / np.sqrt(last)
    common = _resized(learned["common"], classes) if design.shared_labels else jnp.zeros((z.shape[-1], classes))
    weight = weights_of(balanced(design, support, classes))
    if design.kind == "regression":
        targets, present = support.y[:, None], jnp.ones(1)
    else:
        targets = jax.nn.one_hot(support.y, classes)
        present = (weight @ targets > 0).astype(z.dtype)
    kernel, bias = common, jnp.zeros(classes)
    scale = jnp.exp(learned["log_scale"])
    if design.start == "prototypes":
        per_class = targets * weights_of(support)[:, None]
        means = (per_class / jnp.maximum(per_class.sum(axis=0), SMALLEST_SCALE)).T @ z
        kernel, bias = kernel + 2 * scale * means.T, -scale * jnp.sum(means**2, axis=-1)
    elif design.start == "ridge":
        factor = 1.0 if design.kind == "regression" else 4 * scale
        centered = targets - present / present.sum() if design.kind == "classification" else targets
        slope, offset = ridge(z, centered, weight, learned)
        kernel, bias = kernel + factor * slope, factor * offset
    if design.kind == "classification":
        shares = weights_of(support) @ targets / jnp.maximum(jnp.sum(weights_of(support)), SMALLEST_SCALE)
        prior = learned["prior"] * jnp.log(jnp.maximum(shares, SMALLEST_SCALE))
        bias = jnp.where(present > 0, bias + prior, ABSENT)
    if design.adapted:
        kernel = kernel / np.sqrt(design.adapted[-1])
    return Meta({**body, "head": {"kernel": kernel, "bias": bias}}, meta.rule)


def ridge(z: Array, targets: Array, weight: Array, learned: Params) -> tuple[Array, Array]:
    r"""Weighted ridge regression with an offset, solved in the smaller of its two forms.

    Args:
        z: embedding, `[rows, dimensions]`.
        targets: `[rows, outputs]`.
        weight: of each row, `[rows]`; 0 drops it.
        learned: holds the logarithm of the penalty, `log_ridge`.

    Returns:
        Kernel `[dimensions, outputs]` and bias `[outputs]`.
    """
    total = jnp.maximum(jnp.sum(weight), SMALLEST_SCALE)
    share, penalty = weight / total, jnp.exp(learned["log_ridge"])
    middle, level = share @ z, share @ targets
    root = jnp.sqrt(weight)[:, None]
    centered, y = root * (z - middle), root * (targets - level)
    rows, dimensions = z.shape
    if rows <= dimensions:
        gram = centered @ centered.T + penalty * jnp.eye(rows, dtype=z.dtype)
        kernel = centered.T @ jax.scipy.linalg.solve(gram, y, assume_a="pos")
    else:
        gram = centered.T @ centered + penalty * jnp.eye(dimensions, dtype=z.dtype)
        kernel = jax.scipy.linalg.solve(gram, centered.T @ y, assume_a="pos")
    return kernel, level - middle @ kernel


def inner_model(design: Design, inputs: int, classes: int) -> Model:
    """What the inner loop adapts: further layers, if any, and the head."""
    return models.mlp(inputs, design.adapted, classes, initializer=glorot)


def rule(design: Design) -> InnerRule:
    """Gradient descent with a learned step size."""
    return rules.trainable(lambda rate: optax.sgd(jnp.exp(rate)), float(np.log(design.learning_rate)))


def task_loss(design: Design, support: Examples, classes: int) -> Loss:
    """The loss of a task, as a function of its own parameters."""
    model = inner_model(design, support.x.shape[-1], classes)
    if design.kind == "classification":
        return losses.supervised(model, losses.cross_entropy)
    return losses.supervised(model, lambda outputs, y: losses.squared_error(outputs, y[:, None]))


def standardised(design: Design, task: Task) -> tuple[Task, Array, Array]:
    """Targets of a regression in units of the support set's mean and spread; classes as they are."""
    one, zero = jnp.ones(()), jnp.zeros(())
    if design.kind == "classification" or design.targets == "global":
        return task, zero, one
    support = task.support
    share = weights_of(support) / jnp.maximum(jnp.sum(weights_of(support)), SMALLEST_SCALE)
    center = share @ support.y
    scale = jnp.sqrt(share @ (support.y - center) ** 2)
    scale = jnp.where(scale > SMALLEST_SCALE * (1 + jnp.abs(center)), scale, 1.0)
    scaled = lambda batch: batch._replace(y=(batch.y - center) / scale)  # noqa: E731
    return Task(scaled(support), scaled(task.query)), center, scale


def variance(support: Examples, query: Examples) -> Array:
    """How much the targets of an episode vary, in the units in which they are given."""
    y = jnp.concatenate([support.y, query.y])
    weight = jnp.concatenate([weights_of(support), weights_of(query)])
    share = weight / jnp.maximum(jnp.sum(weight), SMALLEST_SCALE)
    return jnp.maximum(share @ (y - share @ y) ** 2, SMALLEST_VARIANCE)


def balanced(design: Design, batch: Examples, classes: int) -> Examples:
    """Weights under which every class counts alike, of mean 1; those of a regression and of `shrunk` stay."""
    if design.kind == "regression" or design.start == "shrunk":
        return batch
    members = jax.nn.one_hot(batch.y, classes) * weights_of(batch)[:, None]
    counts = members.sum(axis=0)
    even = jnp.sum(members / jnp.maximum(counts, SMALLEST_SCALE), axis=-1)
    return batch._replace(weight=even * counts.sum() / jnp.maximum(jnp.sum(counts > 0), 1))


def weights_of(batch: Examples) -> Array:
    """The weight of each row."""
    return jnp.ones(jnp.shape(batch.y)[0]) if batch.weight is None else batch.weight


def _resized(common: Array, classes: int) -> Array:
    """The learned part of the head for another number of classes: further ones start at zero."""
    known = common[:, :classes]
    return jnp.pad(known, ((0, 0), (0, classes - known.shape[1])))
