r"""Losses of one task, built from a model and a criterion."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.types import Batch, Examples, Loss, Metrics, Params, PRNGKey, Scalar, State, StatefulLoss

Criterion: TypeAlias = Callable[[Array, Array], tuple[Array, dict[str, Array]]]
"""`(outputs, targets) -> (loss of each example, metrics of each example)`, all `[examples]`."""

Statistics: TypeAlias = Literal["batch", "support", "running"]
"""Whose mean and variance normalise: those of the batch at hand, of its reference, or the stored averages."""


def cross_entropy(outputs: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
    r"""Softmax cross-entropy, $-\log \operatorname{softmax}(\text{outputs})_{y}$ in nats, with the accuracy.

    Args:
        outputs: logits, `[examples, classes]`.
        labels: class indices from 0, integers, `[examples]`.

    Returns:
        The loss and the accuracy of each example. The loss of a label that is no class is NaN inside a compiled
        function, where values cannot be looked at.

    Raises:
        InnerloopError: if the labels are not integers, or, outside a compiled function, are not from 0 to classes - 1.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InnerloopError(
            f"cross_entropy needs integer class labels, not {labels.dtype}; convert them, or use squared_error for "
            f"regression."
        )
    _same_examples(outputs.shape[:-1], labels.shape, "cross_entropy")
    known = (labels >= 0) & (labels < outputs.shape[-1])
    _require_classes(labels, known, outputs.shape[-1])
    chosen = jnp.where(known, labels, 0)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(outputs), chosen[..., None], axis=-1)[..., 0]
    losses = jnp.where(known, losses, jnp.nan)
    return losses, {"accuracy": (jnp.argmax(outputs, axis=-1) == labels).astype(outputs.dtype)}


def to_prototype(outputs: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
    r"""Half the squared distance of each example to the prototype of its class, each class weighing the same.

    $$ \frac12 \sum_k \frac{1}{n_k} \sum_{i:\, y_i = k} \lVert f(x_i) - c_k\rVert^2 $$

    is the mean over the $n$ examples of what it returns. Its gradient in $c_k$ is $c_k$ minus the mean of class $k$.

    Args:
        outputs: $-\lVert f(x_i) - c_k\rVert^2$, the logits of `models.prototypical`, `[examples, classes]`.
        labels: class indices from 0, integers, `[examples]`.

    Reference:
        Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017, arXiv 1703.05175.
    """
    _same_examples(outputs.shape[:-1], labels.shape, "to_prototype")
    members = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    share = members @ jnp.sum(members, axis=0) / labels.shape[0]
    return -0.5 * jnp.sum(members * outputs, axis=-1) / share, {}


def squared_error(outputs: Array, targets: Array) -> tuple[Array, dict[str, Array]]:
    r"""Squared error $\lVert \text{outputs} - y\rVert^2$, averaged over output dimensions; no further metrics.

    Args:
        outputs: predictions, `[examples, ...]`.
        targets: of the same shape.
    """
    _same_examples(outputs.shape, targets.shape, "squared_error")
    return jnp.mean(((outputs - targets) ** 2).reshape(outputs.shape[0], -1), axis=-1), {}


def supervised(model: Model, criterion: Criterion, statistics: Statistics = "batch") -> Loss:
    r"""The mean of a criterion over a batch of `Examples`.

    Args:
        model: the network.
        criterion: the loss of each example, such as `cross_entropy` or `squared_error`.
        statistics: where a normalising network takes mean and variance from. `"batch"`: the batch at hand, so that
            queries are evaluated together (*transductive*). `"support"`: the batch's `reference`, so that each query is
            evaluated alone (*inductive*). `"running"`: the averages stored in the parameters (*inductive*).

    Returns:
        A `Loss` over `Examples`. If the model stores running averages and `statistics` is `"batch"`, the loss also
        moves them, see `innerloop.losses.track`.

    Raises:
        InnerloopError: if the model cannot take statistics from elsewhere.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Examples, models
        >>> from innerloop.core import losses
        >>> model = models.mlp(1, (8,), 1)
        >>> loss = losses.supervised(model, losses.squared_error)
        >>> batch = Examples(x=jnp.ones((5, 1)), y=jnp.ones((5, 1)))
        >>> value, metrics = loss(model.init(jax.random.key(0)), batch, jax.random.key(1))
    """
    if statistics not in get_args(Statistics):
        raise InnerloopError(f"statistics is {statistics!r}; it must be one of {', '.join(get_args(Statistics))}.")
    moments_of, running_of = model.moments, model.running
    if statistics == "support" and moments_of is None:
        raise InnerloopError("statistics='support' needs a model with normalisation; this one has none, use 'batch'.")
    if statistics == "running" and running_of is None:
        raise InnerloopError(
            "statistics='running' needs a model that stores running averages; use models.with_running_statistics."
        )

    def loss(params: Params, batch: Examples, key: PRNGKey) -> tuple[Scalar, Metrics]:
        moments = None
        if statistics == "support" and moments_of and batch.reference is not None:
            moments = moments_of(params, batch.reference, key)
        elif statistics == "running" and running_of:
            moments = running_of(params)
        x, y = _without_padding(batch)
        losses, metrics = criterion(model.apply(params, x, key=key, moments=moments), y)
        value = _mean(losses, batch.weight)
        means = {name: _mean(metric, batch.weight) for name, metric in metrics.items()}
        if running_of and moments_of and moments is None:
            value += track(running_of(params), moments_of(params, batch.x, key))
        return value, means

    return loss


def with_psnr(loss: Loss, peak: float = 1.0) -> Loss:
    r"""The same loss of squared errors, with the peak signal-to-noise ratio as a metric.

    $$ \text{psnr} = 10 \log_{10} \frac{\text{peak}^2}{\text{mean squared error}} \text{ dB} $$

    It belongs to the whole batch, such as the pixels of an image: the mean over pixels of a ratio would mean nothing.

    Args:
        loss: the mean squared error of a batch, such as `supervised(model, squared_error)`.
        peak: the largest value that targets can have.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Examples, losses, models
        >>> image = models.from_functions(lambda key: jnp.zeros(()), lambda params, x: params + 0 * x)
        >>> loss = losses.with_psnr(losses.supervised(image, losses.squared_error))
        >>> metrics = loss(0.1, Examples(jnp.zeros((4, 1)), jnp.zeros((4, 1))), jax.random.key(0))[1]
        >>> print(metrics["psnr"])
        20.0
    """

    def judged(params: Params, batch: Batch, key: PRNGKey) -> tuple[Scalar, Metrics]:
        value, metrics = loss(params, batch, key)
        least = jnp.finfo(value.dtype).tiny
        return value, {**metrics, "psnr": 20 * math.log10(peak) - 10 * jnp.log10(jnp.maximum(value, least))}

    return judged


def stateful(model: Model, criterion: Criterion) -> StatefulLoss:
    r"""The mean of a criterion over a batch of `Examples`, of a network that keeps a state from inner step to step.

    Running statistics, caches, recurrent states: each task starts from the network's own initial state, and query sets
    see the state at the end of the inner loop. What the network does with it at evaluation is the network's affair: for
    `meta_loss` and `evaluate`, make a second model that uses running averages and give its loss as the query loss.

    Args:
        model: a network that keeps a state, from `models.from_nnx`, `models.from_linen` or `models.from_equinox`, or
            with `Model.kept` of your own.
        criterion: the loss of each example.

    Raises:
        InnerloopError: if the model keeps nothing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Examples, losses, models
        >>> def apply(params, x, total, key):  # predicts from the sum of all inputs so far
        ...     total = total + jnp.sum(x)
        ...     return params * total * jnp.ones_like(x), total
        >>> kept = models.Kept(init=lambda params: 0.0, apply=apply)
        >>> model = models.from_functions(lambda key: jnp.ones(()), lambda params, x: params * x)._replace(kept=kept)
        >>> loss = losses.stateful(model, losses.squared_error)
        >>> batch = Examples(x=jnp.ones((3, 1)), y=jnp.ones((3, 1)))
        >>> value, metrics, state = loss.loss(jnp.ones(()), batch, jax.random.key(0), loss.init(jnp.ones(())))
        >>> print(value, state)
        4.0 3.0
    """
    kept = model.kept
    if kept is None:
        raise InnerloopError("losses.stateful needs a model that keeps a state; this one has none, use supervised.")

    def loss(params: Params, batch: Examples, key: PRNGKey, state: State) -> tuple[Scalar, Metrics, State]:
        x, y = _without_padding(batch)
        outputs, state = kept.apply(params, x, state, key)
        losses, metrics = criterion(outputs, y)
        means = {name: _mean(metric, batch.weight) for name, metric in metrics.items()}
        return _mean(losses, batch.weight), means, state

    return StatefulLoss(loss, kept.init)


def micro_batched(loss: Loss, number: int) -> Loss:
    r"""The same loss, with the examples of a batch taken in `number` parts of equal size, one after the other.

    $$ L(\theta, \text{batch}) = \frac1k \sum_{i=1}^k L(\theta, \text{part}_i) $$

    for a loss that is a mean over examples; examples with weights, `Examples.weight`, are weighted as in one batch. A
    derivative of any order keeps nothing of a part, but computes it anew: memory is that of one part, for one more
    evaluation of the loss. It serves inner and outer losses alike, and makes of every inner step one of accumulated
    gradients.

    Networks that normalise by the statistics of the batch see those of each part. Random numbers are drawn for each
    part from a key of its own.

    Args:
        loss: the mean of something over the examples of a batch, whose leaves are `[examples, ...]`.
        number: of parts, $k$, a divisor of the number of examples.

    Returns:
        A loss whose metrics are the means over the parts.

    Raises:
        InnerloopError: if the number is not positive, does not divide the examples, or the loss keeps a state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import losses
        >>> loss = lambda theta, batch, key: (jnp.mean((theta - batch) ** 2), {})
        >>> value, _ = losses.micro_batched(loss, 2)(jnp.zeros(()), jnp.arange(4.0), jax.random.key(0))
        >>> print(value)
        3.5
    """
    if isinstance(loss, StatefulLoss):
        raise InnerloopError(
            "micro_batched takes a loss without a state, which would be handed on once for each part; loop over the "
            "parts in the loss itself."
        )
    if isinstance(number, bool) or number < 1:
        raise InnerloopError(f"micro_batched(number={number}) cannot be; use 1 part or more.")

    def in_parts(params: Params, batch: Batch, key: PRNGKey) -> tuple[Scalar, Metrics]:
        shared = None
        if isinstance(batch, Examples):
            shared, batch = batch.reference, batch._replace(reference=None)
        parts = jax.tree.map_with_path(lambda path, leaf: _cut(path_name(path), leaf, number), batch)
        weight = parts.weight if isinstance(parts, Examples) else None
        shares = jnp.full(number, 1 / number) if weight is None else _shares(weight)

        def one(total: Any, x: Any) -> tuple[Any, None]:
            part, share, index = x
            part = part._replace(reference=shared) if isinstance(part, Examples) else part
            found = loss(params, part, jax.random.fold_in(key, index))
            return jax.tree.map(lambda before, value: before + (share * value).astype(before.dtype), total, found), None

        first = jax.tree.map(lambda leaf: leaf[0], parts)
        first = first._replace(reference=shared) if isinstance(first, Examples) else first
        shapes = jax.eval_shape(loss, params, first, key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
        total, _ = lax.scan(jax.checkpoint(one, prevent_cse=False), zeros, (parts, shares, jnp.arange(number)))
        return total

    return in_parts


def track(averages: Any, moments: Any) -> Scalar:
    r"""Zero, with the gradient `averages - moments` with respect to `averages`.

    Added to a loss, it turns the moving average $m \leftarrow m + (1 - d)(\text{batch} - m)$ into one step of gradient
    descent with the rate $1 - d$: running statistics are parameters like others, averaged over tasks, sharded and saved
    with them.
    """
    moments = lax.stop_gradient(moments)
    parts = jax.tree.map(lambda average, now: 0.5 * jnp.sum((average - now) ** 2), averages, moments)
    return gradient_alone(jax.tree.reduce(jnp.add, parts))


def gradient_alone(value: Scalar) -> Scalar:
    """Zero, with the gradient of the value: what is added to a loss to change its gradient and not itself."""
    return value - lax.stop_gradient(value)


def _without_padding(batch: Examples) -> tuple[Any, Any]:
    """Inputs and targets with zeros in the rows that do not count, so that nothing of what is in them is left."""
    weight = batch.weight
    if weight is None:
        return batch.x, batch.y

    def masked(leaf: Array) -> Array:
        counts = (weight > 0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(counts, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(masked, (batch.x, batch.y))


def _mean(values: Array, weight: Array | None) -> Scalar:
    """The mean over the examples, whose values may have further axes, such as the positions of a sequence."""
    if weight is None:
        return jnp.mean(values)
    if values.shape[:1] != weight.shape:
        raise InnerloopError(
            f"The criterion returned {list(values.shape)} for {weight.shape[0]} examples; it must return one loss for "
            "each example."
        )
    values = jnp.mean(values.reshape(len(weight), -1), axis=-1)
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), jnp.finfo(values.dtype).tiny)


def _cut(name: str, leaf: Any, number: int) -> Any:
    """The leaf as `[parts, examples of each, ...]`."""
    examples = jnp.shape(leaf)[0] if jnp.shape(leaf) else 0
    if not examples or examples % number:
        raise InnerloopError(
            f"micro_batched cannot cut the batch into {number} equal parts: {name or 'its leaf'} has shape "
            f"{list(jnp.shape(leaf))}; use a divisor of the number of examples."
        )
    return jnp.reshape(leaf, (number, examples // number, *jnp.shape(leaf)[1:]))


def _shares(weight: Any) -> Any:
    """The share of each part in the weight of all, in the widest type that is enabled."""
    of_parts = jnp.sum(weight, axis=1, dtype=jnp.promote_types(weight.dtype, jnp.zeros((), float).dtype))
    return of_parts / jnp.maximum(jnp.sum(of_parts), jnp.finfo(of_parts.dtype).tiny)


def _require_classes(labels: Array, known: Array, classes: int) -> None:
    """Refuse labels that are no class, where they can be looked at."""
    if isinstance(known, Tracer) or bool(jnp.all(known)):
        return
    wrong = int(jnp.ravel(labels)[int(jnp.argmin(jnp.ravel(known)))])
    raise InnerloopError(
        f"cross_entropy got the label {wrong} for {classes} outputs; labels are whole numbers from 0 to {classes - 1}."
    )


def _same_examples(outputs: tuple[int, ...], targets: tuple[int, ...], name: str) -> None:
    if outputs != targets:
        raise InnerloopError(
            f"{name} got outputs for {list(outputs)} and targets of shape {list(targets)}; they must agree."
        )
