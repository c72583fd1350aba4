r"""Networks with a part that some algorithms need: a context, parameters of each step, prototypes, a shared head."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from innerloop.core.names import CONTEXT, COUNTER, OFFSETS, PROTOTYPES, SCALE_AND_SHIFT, head_of
from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.types import Params, PRNGKey


def with_context(model: Model, size: int) -> Model:
    r"""A network that takes a context vector beside its input: $f([x, c])$.

    CAVIA adapts the context alone, from zero for every task, by
    `rules.masked(rule, lambda path, leaf: path == "context")`.

    Args:
        model: a network whose inputs are `[examples, features + size]`.
        size: length of the context.

    Returns:
        A model of inputs `[examples, features]`, with parameters `{"network": ..., "context": [size]}`.

    Raises:
        InnerloopError: if the size is not positive, or the network stores running statistics.

    Reference:
        Zintgraf et al.: Fast Context Adaptation via Meta-Learning, 2018, arXiv 1810.03642.
    """
    if size < 1:
        raise InnerloopError(f"A context of {size} numbers can hold nothing; use 1 or more.")
    if model.running is not None:
        raise InnerloopError("A network with running statistics cannot take a context; normalise in another way.")

    def joined(params: Params, x: Array) -> Array:
        context = jnp.broadcast_to(params[CONTEXT], (x.shape[0], size))
        return jnp.concatenate([x.reshape(x.shape[0], -1), context.astype(x.dtype)], axis=-1)

    def init(key: PRNGKey) -> Params:
        return {"network": model.init(key), CONTEXT: jnp.zeros(size)}

    def apply(params: Params, x: Array, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        return model.apply(params["network"], joined(params, x), key=key, moments=moments)

    return model._replace(
        init=init, apply=apply, moments=_seen_through(model, lambda p, x: (p["network"], joined(p, x)))
    )


def per_step(
    model: Model, steps: int, where: Callable[[str], bool] = lambda path: path.split("/")[-1] in SCALE_AND_SHIFT
) -> Model:
    r"""A network that has some of its parameters once for each inner step, $f(x; \theta, \gamma_t, \beta_t)$.

    MAML++ does so with scale and shift of its normalisation. What has been updated $t$ times is evaluated with the
    parameters of step $t$, on the support set and on the query set, from $t = 0$ to `steps`; beyond, those of the last
    step are used again. The number of updates is counted in the parameters, by `rules.counting`.

    Args:
        model: the network.
        steps: number of inner steps.
        where: `path -> bool`, which of its parameters; scale and shift of normalisation layers unless given.

    Returns:
        A model with parameters `{"network": ..., "step": 0}`, the chosen leaves with a leading axis `[steps + 1]`.

    Raises:
        InnerloopError: if there are no such parameters, or the network stores running statistics.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502, section 4.
    """
    if model.running is not None:
        raise InnerloopError(
            "A network with running statistics cannot have parameters for each inner step; normalise by the "
            "statistics of the batch or of the support set."
        )

    def init(key: PRNGKey) -> Params:
        network = model.init(key)
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(network)]
        if not any(where(path) for path in paths):
            raise InnerloopError(f"No parameter is to have one value for each step; they are: {', '.join(paths)}.")
        repeat = lambda leaf: jnp.repeat(leaf[None], steps + 1, axis=0)  # noqa: E731
        network = jax.tree.map_with_path(lambda path, leaf: repeat(leaf) if where(path_name(path)) else leaf, network)
        return {"network": network, COUNTER: jnp.zeros(())}

    def now(params: Params) -> Params:
        step = jnp.clip(jnp.round(params[COUNTER]).astype(jnp.int32), 0, steps)
        pick = lambda path, leaf: leaf[step] if where(path_name(path)) else leaf  # noqa: E731
        return jax.tree.map_with_path(pick, params["network"])

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        return model.apply(now(params), x, key=key, moments=moments)

    return model._replace(init=init, apply=apply, moments=_seen_through(model, lambda p, x: (now(p), x)))


def prototypical(model: Model, size: int, ways: int) -> Model:
    r"""A network that classifies by the distance to prototypes: the logit of class $k$ is $-\lVert f(x) - c_k\rVert^2$.

    The prototypes are parameters. With the criterion `losses.to_prototype` inside, one step of gradient descent with
    the rate 1 sets each to the mean of its class, whatever it was before.

    Args:
        model: the embedding, from inputs to `[examples, size]`.
        size: number of features that it gives.
        ways: number of classes.

    Returns:
        A model from inputs to logits `[examples, ways]`, with parameters
        `{"network": ..., "prototypes": [ways, size]}`. It also takes those of a model of more classes, of which it uses
        the first: training on tasks of more classes than are asked for at test is how these networks are published.

    Reference:
        Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017, arXiv 1703.05175.
    """
    if model.running is not None:
        raise InnerloopError("A prototypical network with running statistics is not offered; normalise otherwise.")

    def init(key: PRNGKey) -> Params:
        return {"network": model.init(key), PROTOTYPES: jnp.zeros((ways, size))}

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        features = model.apply(params["network"], x, key=key, moments=moments)
        return -jnp.sum((features[:, None, :] - params[PROTOTYPES][:ways]) ** 2, axis=-1)

    return model._replace(init=init, apply=apply, moments=_seen_through(model, lambda p, x: (p["network"], x)))


def shared_head(model: Model, head: str | None = None, axis: int = -1) -> Model:
    r"""A network whose classes all begin with the same head vector, $w_c = w + d_c$ with $d_c = 0$.

    UNICORN-MAML learns $w$ and the body, and adapts the body and each class's $d_c$, which are its copies of $w$, by
    `rules.class_copies`. What is learned then knows no order of the classes.

    Args:
        model: a network with one output for each class.
        head: the name of its last layer, see `rules.head_only`.
        axis: the axis of the classes in this layer's parameters; 0 for Equinox.

    Returns:
        A model with parameters `{"network": ..., "offsets": ...}`: those of the network with a single class in the
        head, and what each class adds to it.

    Raises:
        InnerloopError: if no layer is found, or the network stores running statistics.

    Reference:
        Ye, Chao: How to Train Your MAML to Excel in Few-Shot Classification, 2021, arXiv 2106.16245.
    """
    if model.running is not None:
        raise InnerloopError("A shared head with running statistics is not offered; normalise otherwise.")

    def init(key: PRNGKey) -> Params:
        network = model.init(key)
        mask = head_of(network, head)
        one = lambda leaf: jax.lax.slice_in_dim(leaf, 0, 1, axis=axis % leaf.ndim)  # noqa: E731
        shared = jax.tree.map(lambda leaf, found: one(leaf) if found else leaf, network, mask)
        offsets = jax.tree.map(lambda leaf, found: jnp.zeros_like(leaf) if found else None, network, mask)
        return {"network": shared, OFFSETS: offsets}

    def whole(params: Params) -> Params:
        add = lambda offset, shared: shared if offset is None else shared + offset  # noqa: E731
        return jax.tree.map(add, params[OFFSETS], params["network"], is_leaf=lambda leaf: leaf is None)

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        return model.apply(whole(params), x, key=key, moments=moments)

    return model._replace(init=init, apply=apply, moments=_seen_through(model, lambda p, x: (whole(p), x)))


def ensemble(model: Model, *, probabilities: bool) -> Model:
    r"""Several networks of one kind that predict together, with the parameters of all along a leading axis.

    $$ \frac1m \sum_{i=1}^m f(x; \theta_i) \quad\text{or, of classes,}\quad
       \log \frac1m \sum_{i=1}^m \operatorname{softmax} f(x; \theta_i) . $$

    Args:
        model: the network.
        probabilities: whether its outputs are logits, whose probabilities are averaged; or else the outputs are.

    Returns:
        A model of parameters with leaves `[members, ...]`; its `init` makes one member.

    Example:
        >>> import jax.numpy as jnp
        >>> from innerloop import models
        >>> slope = models.from_functions(lambda key: jnp.ones(()), lambda params, x: params * x)
        >>> print(models.ensemble(slope, probabilities=False).apply(jnp.array([1.0, 2.0]), jnp.array([[2.0]])))
        [[3.]]
    """

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        # One after another: together they would be convolutions in groups, which XLA has no fast CPU kernels for.
        one = lambda member: model.apply(member[0], x, key=key, moments=member[1])  # noqa: E731
        outputs = lax.map(one, (params, moments))
        if probabilities:
            return jax.nn.logsumexp(jax.nn.log_softmax(outputs), axis=0) - jnp.log(outputs.shape[0])
        return jnp.mean(outputs, axis=0)

    of_member, of_running = model.moments, model.running
    return model._replace(
        apply=apply,
        moments=of_member and (lambda params, x, key: lax.map(lambda one: of_member(one, x, key), params)),
        running=of_running and jax.vmap(of_running),
    )


def _seen_through(model: Model, inner: Callable[[Params, Any], tuple[Params, Any]]) -> Any:
    """The statistics of the network inside, if it has any."""
    moments = model.moments
    return None if moments is None else lambda params, x, key: moments(*inner(params, x), key)
