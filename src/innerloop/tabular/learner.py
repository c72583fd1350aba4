r"""The learner of tasks in tables: a trunk that all tasks share, and a head that each task starts from its support set.

An episode goes through four pure functions. The trunk embeds support and query once; the head starts in closed form
from the embedded support set; `innerloop.adapt` takes the inner steps from there; the adapted head scores.
Meta-training differentiates through all four, and what is trained is what predicts: the program, the estimators and the
server call the same functions.

The head of a task starts from *prototypes*, $w_c = 2s\,p_c$ and $b_c = -s\,\lVert p_c\rVert^2$ with the mean embedding
$p_c$ of class $c$, so that before the first step the logits are squared distances to the prototypes; or from *ridge*
regression of the targets on the embedding. The temperature $s$, the ridge penalty and the inner step size are learned.

Reference:
    Triantafillou et al.: Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples, 2020,
    arXiv 1903.03096 (proto-MAML); Bertinetto et al.: Meta-learning with Differentiable Closed-Form Solvers, 2019,
    arXiv 1805.08136 (ridge).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from innerloop import models
from innerloop.core import algorithms, losses, rules
from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder
from innerloop.errors import InnerloopError
from innerloop.models import Model
from innerloop.models.layers import conv, conv_init, dense, glorot
from innerloop.ops import max_pool
from innerloop.tabular.features import Inputs
from innerloop.tasks.images import as_numbers
from innerloop.types import Examples, InnerRule, Loss, Meta, MetaLoss, Metrics, Params, PRNGKey, Scalar, Task

ABSENT = -1e9
"""The logit of a class that the support set lacks."""
ALGORITHMS = ("maml", "fomaml", "joint")
"""Rows of the table of algorithms that a learner can be trained by."""
SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class Design:
    """What a learner is. With its parameters it is all that adaptation needs.

    Attributes:
        kind: what is predicted.
        widths: layers of the trunk, the last of which is the embedding.
        adapted: further layers, which the inner loop adapts together with the head.
        start: how a task's head begins.
        algorithm: a row of the table of algorithms: how the meta-gradient flows; `joint` takes no inner steps.
        steps: inner steps.
        learning_rate: their size at the beginning of training, which learns it.
        dropout: share of the trunk's activations that training drops.
        dropout_inputs: share of the input features that training drops.
        image: height, width and channels, if the rows are images, which the trunk then reads by convolutions; `widths`
            are then the filters of blocks that halve the image each.
        shared_labels: whether a class means the same in every task; if not, nothing is learned of any one class.
    """

    kind: Literal["classification", "regression"] = "classification"
    widths: tuple[int, ...] = (512, 256)
    adapted: tuple[int, ...] = ()
    start: Literal["prototypes", "ridge", "zero"] = "prototypes"
    algorithm: str = "maml"
    steps: int = 3
    learning_rate: float = 0.3
    dropout: float = 0.1
    dropout_inputs: float = 0.0
    image: tuple[int, int, int] | None = None
    shared_labels: bool = True

    def require(self) -> None:
        """Refuse a design that cannot work.

        Raises:
            InnerloopError: naming the setting.
        """
        if self.algorithm not in ALGORITHMS:
            raise InnerloopError(f"algorithm is {self.algorithm!r}; a learner is trained by {', '.join(ALGORITHMS)}.")
        if not self.widths or min(self.widths + self.adapted) < 1:
            raise InnerloopError(f"widths is {self.widths}; give at least one layer, each at least 1 wide.")
        if self.kind == "regression" and self.start == "prototypes":
            raise InnerloopError("start='prototypes' needs classes; for regression use 'ridge'.")
        if self.image is not None and min(self.image[:2]) >> len(self.widths) == 0:
            raise InnerloopError(
                f"A {self.image[0]}x{self.image[1]} image is too small for {len(self.widths)} blocks that halve it."
            )


class Adapted(NamedTuple):
    """A task's own parameters: all that prediction needs beyond the trunk.

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
        sizes: counts and numbers that the trunk reads, `Preparation.sizes`.
        classes: outputs of the head; 1 for regression.
        key: randomness of the trunk.
    """
    design.require()
    trunk_key, body_key = jax.random.split(key)
    width = design.widths[-1]
    body = _inner_model(design, width, classes).init(body_key)
    last = body.pop("head")["kernel"].shape[0]
    head = {
        "log_scale": jnp.zeros(()),
        "log_ridge": jnp.zeros(()),
        "prior": jnp.zeros(()),
        "common": jnp.zeros((last, classes)),
    }
    return Meta({"trunk": _trunk_init(design, sizes, trunk_key), "body": body, "head": head}, _rule(design).init(()))


def learner_loss(design: Design, classes: int) -> MetaLoss:
    """The meta-loss of one episode of padded `Examples` with weights, for `outer.meta_step`.

    Args:
        design: what the learner is.
        classes: outputs of the head; 1 for regression.
    """
    row = algorithms.algorithm(design.algorithm)

    def loss(meta: Meta, task: Task, key: PRNGKey) -> tuple[Scalar, Metrics]:
        support_key, query_key, inner_key = jax.random.split(key, 3)
        task, _, _ = _standardised(design, task)
        weights = meta.params["trunk"]
        support = task.support._replace(x=trunk(design, weights, task.support.x, support_key))
        query = task.query._replace(x=trunk(design, weights, task.query.x, query_key))
        if design.kind == "classification":  # a class that the support set lacks cannot be told
            seen = jnp.zeros(classes).at[support.y].max(_weight(support))
            query = query._replace(weight=_weight(query) * (seen[query.y] > 0))
        inner = algorithms.build(row, _task_loss(design, support, classes), rule=_rule(design), steps=design.steps)
        task = Task(_balanced(design, support, classes), query)
        return inner(begin(design, meta, support, classes), task, inner_key)

    return loss


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
    if design.adapted:
        last = design.adapted[-1]
        eye = {"kernel": jnp.eye(last), "bias": jnp.zeros(last)}
        z = jax.nn.relu(_inner_model(design, z.shape[-1], last).apply({**body, "head": eye}, z)) / np.sqrt(last)
    common = _resized(learned["common"], classes) if design.shared_labels else jnp.zeros((z.shape[-1], classes))
    weight = _weight(_balanced(design, support, classes))
    if design.kind == "regression":
        targets, present = support.y[:, None], jnp.ones(1)
    else:
        targets = jax.nn.one_hot(support.y, classes)
        present = (weight @ targets > 0).astype(z.dtype)
    kernel, bias = common, jnp.zeros(classes)
    scale = jnp.exp(learned["log_scale"])
    if design.start == "prototypes":
        per_class = targets * _weight(support)[:, None]
        means = (per_class / jnp.maximum(per_class.sum(axis=0), SMALLEST_SCALE)).T @ z
        kernel, bias = kernel + 2 * scale * means.T, -scale * jnp.sum(means**2, axis=-1)
    elif design.start == "ridge":
        factor = 1.0 if design.kind == "regression" else 4 * scale
        centered = targets - present / present.sum() if design.kind == "classification" else targets
        slope, offset = ridge(z, centered, weight, learned)
        kernel, bias = kernel + factor * slope, factor * offset
    if design.kind == "classification":
        shares = _weight(support) @ targets / jnp.maximum(jnp.sum(_weight(support)), SMALLEST_SCALE)
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


def trunk(design: Design, weights: Params, x: Inputs, key: PRNGKey | None = None) -> Array:
    """The shared embedding of rows, of mean 0 and length about 1.

    Args:
        design: what the learner is.
        weights: the trunk's parameters.
        x: encoded rows.
        key: randomness of dropout; `None` drops nothing.

    Returns:
        `[rows, widths[-1]]`.
    """
    keys = [None] * (len(design.widths) + 1) if key is None else list(jax.random.split(key, len(design.widths) + 1))
    if design.image is not None:
        h = as_numbers(jnp.asarray(x.counts).reshape(-1, *design.image))
        for i in range(1, len(design.widths) + 1):
            h = conv(weights[f"conv{i}"], h)
            h = max_pool(jax.nn.relu(_normalised(h, weights[f"norm{i}"], axes=(1, 2, 3))), 2)
        h = jnp.mean(h, axis=(1, 2))
        return _normalised(h, weights["norm"]) / np.sqrt(design.widths[-1])
    h = jnp.concatenate([jnp.log1p(x.counts.astype(jnp.float32)), x.numbers.astype(jnp.float32)], axis=-1)
    h = _dropped(keys[0], h, design.dropout_inputs)
    for i in range(1, len(design.widths) + 1):
        h = _normalised(dense(weights[f"dense{i}"], h), weights[f"norm{i}"])
        if i < len(design.widths):
            h = _dropped(keys[i], jax.nn.relu(h), design.dropout)
    return h / np.sqrt(design.widths[-1])


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
    task, center, scale = _standardised(design, Task(support, support))
    support = task.support._replace(x=trunk(design, meta.params["trunk"], support.x))
    loss = _task_loss(design, support, classes)
    support = _balanced(design, support, classes)
    started, key = begin(design, meta, task.support._replace(x=support.x), classes), jax.random.key(0)
    steps = 0 if design.algorithm == "joint" else design.steps
    adapted = adapt(
        loss, started, support, key, rule=_rule(design), steps=steps, adjoint=FirstOrder(), trajectory=trajectory
    )
    final = adapted.params if not trajectory else jax.tree.map(lambda leaf: leaf[-1], adapted.trajectory)
    last = loss(final, support, key)[0]
    kept = adapted.trajectory if trajectory else adapted.params
    return Adapted(kept, center, scale, jnp.append(adapted.losses, last))


def outputs(design: Design, classes: int, meta: Meta, adapted: Adapted, x: Inputs) -> Array:
    """What an adapted task says of rows: logits `[rows, classes]`, or targets in the task's own units `[rows, 1]`."""
    z = trunk(design, meta.params["trunk"], x)
    return _scores(design, classes, adapted, z)


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
    z = trunk(design, meta.params["trunk"], x)
    return jax.vmap(lambda each: _scores(design, classes, each, z))(adapted)


@partial(jax.jit, static_argnames=("design", "classes"))
def outputs_along(design: Design, classes: int, meta: Meta, adapted: Adapted, x: Inputs) -> Array:
    """What tasks adapted with `trajectory` say after 0, 1, ..., k steps, compiled: `[tasks, steps + 1, rows, ...]`."""

    def one(adapted: Adapted, x: Inputs) -> Array:
        z = trunk(design, meta.params["trunk"], x)
        return jax.vmap(lambda params: _scores(design, classes, adapted._replace(params=params), z))(adapted.params)

    return jax.vmap(one)(adapted, x)


def _scores(design: Design, classes: int, adapted: Adapted, z: Array) -> Array:
    scores = _inner_model(design, z.shape[-1], classes).apply(adapted.params, z)
    return scores * adapted.scale + adapted.center if design.kind == "regression" else scores


def _inner_model(design: Design, inputs: int, classes: int) -> Model:
    """What the inner loop adapts: further layers, if any, and the head."""
    return models.mlp(inputs, design.adapted, classes, initializer=glorot)


def _rule(design: Design) -> InnerRule:
    """Gradient descent with a learned step size."""
    return rules.trainable(lambda rate: optax.sgd(jnp.exp(rate)), float(np.log(design.learning_rate)))


def _task_loss(design: Design, support: Examples, classes: int) -> Loss:
    """The loss of a task, as a function of its own parameters."""
    model = _inner_model(design, support.x.shape[-1], classes)
    if design.kind == "classification":
        return losses.supervised(model, losses.cross_entropy)
    return losses.supervised(model, lambda outputs, y: losses.squared_error(outputs, y[:, None]))


def _standardised(design: Design, task: Task) -> tuple[Task, Array, Array]:
    """Targets of a regression in units of the support set's mean and spread; classes as they are."""
    one, zero = jnp.ones(()), jnp.zeros(())
    if design.kind == "classification":
        return task, zero, one
    support = task.support
    share = _weight(support) / jnp.maximum(jnp.sum(_weight(support)), SMALLEST_SCALE)
    center = share @ support.y
    scale = jnp.sqrt(share @ (support.y - center) ** 2)
    scale = jnp.where(scale > SMALLEST_SCALE * (1 + jnp.abs(center)), scale, 1.0)
    scaled = lambda batch: batch._replace(y=(batch.y - center) / scale)  # noqa: E731
    return Task(scaled(support), scaled(task.query)), center, scale


def _balanced(design: Design, batch: Examples, classes: int) -> Examples:
    """Weights under which every class counts alike, of mean 1; those of a regression stay."""
    if design.kind == "regression":
        return batch
    members = jax.nn.one_hot(batch.y, classes) * _weight(batch)[:, None]
    counts = members.sum(axis=0)
    balanced = jnp.sum(members / jnp.maximum(counts, SMALLEST_SCALE), axis=-1)
    return batch._replace(weight=balanced * counts.sum() / jnp.maximum(jnp.sum(counts > 0), 1))


def _weight(batch: Examples) -> Array:
    """The weight of each row."""
    return jnp.ones(jnp.shape(batch.y)[0]) if batch.weight is None else batch.weight


def _resized(common: Array, classes: int) -> Array:
    """The learned part of the head for another number of classes: further ones start at zero."""
    known = common[:, :classes]
    return jnp.pad(known, ((0, 0), (0, classes - known.shape[1])))


def _trunk_init(design: Design, sizes: tuple[int, int], key: PRNGKey) -> Params:
    norm = lambda width: {"scale": jnp.ones(width), "shift": jnp.zeros(width)}  # noqa: E731
    weights, inputs = {}, design.image[2] if design.image is not None else sum(sizes)
    for i, (width, each) in enumerate(
        zip(design.widths, jax.random.split(key, len(design.widths)), strict=True), start=1
    ):
        if design.image is not None:
            weights[f"conv{i}"] = conv_init(each, 3, inputs, width, bias=False)
        else:
            kernel = jax.random.normal(each, (inputs, width)) * np.sqrt(2 / max(inputs, 1))
            weights[f"dense{i}"] = {"kernel": kernel, "bias": jnp.zeros(width)}
        weights[f"norm{i}"] = norm(width)
        inputs = width
    return weights | {"norm": norm(inputs)} if design.image is not None else weights


def _normalised(h: Array, weights: Params, axes: tuple[int, ...] = (-1,)) -> Array:
    """Layer normalisation: each row by its own mean and variance over `axes`, scale and shift for each channel."""
    h = h - jnp.mean(h, axis=axes, keepdims=True)
    h = h * lax.rsqrt(jnp.mean(h**2, axis=axes, keepdims=True) + 1e-5)
    return h * weights["scale"] + weights["shift"]


def _dropped(key: PRNGKey | None, x: Array, share: float) -> Array:
    if key is None or not share:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0)
