r"""Networks with a part that some algorithms of the family need: a context, parameters of each step, prototypes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

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
        context = jnp.broadcast_to(params["context"], (x.shape[0], size))
        return jnp.concatenate([x.reshape(x.shape[0], -1), context.astype(x.dtype)], axis=-1)

    def init(key: PRNGKey) -> Params:
        return {"network": model.init(key), "context": jnp.zeros(size)}

    def apply(params: Params, x: Array, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        return model.apply(params["network"], joined(params, x), key=key, moments=moments)

    return model._replace(
        init=init, apply=apply, moments=_seen_through(model, lambda p, x: (p["network"], joined(p, x)))
    )


def per_step(
    model: Model, steps: int, where: Callable[[str], bool] = lambda path: path.split("/")[-1] in ("scale", "shift")
) -> Model:
    r"""A network that has some of its parameters once for each inner step, $f(x; \theta, \gamma_t, \beta_t)$.

    MAML++ does so with scale and shift of its normalisation. What has been updated $t$ times is judged with the
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
        return {"network": network, "step": jnp.zeros(())}

    def now(params: Params) -> Params:
        step = jnp.clip(jnp.round(params["step"]).astype(jnp.int32), 0, steps)
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
        `{"network": ..., "prototypes": [ways, size]}`.

    Reference:
        Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, 2017, arXiv 1703.05175.
    """
    if model.running is not None:
        raise InnerloopError("A prototypical network with running statistics is not offered; normalise otherwise.")

    def init(key: PRNGKey) -> Params:
        return {"network": model.init(key), "prototypes": jnp.zeros((ways, size))}

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        features = model.apply(params["network"], x, key=key, moments=moments)
        return -jnp.sum((features[:, None, :] - params["prototypes"]) ** 2, axis=-1)

    return model._replace(init=init, apply=apply, moments=_seen_through(model, lambda p, x: (p["network"], x)))


def _seen_through(model: Model, inner: Callable[[Params, Any], tuple[Params, Any]]) -> Any:
    """The statistics of the network inside, if it has any."""
    moments = model.moments
    return None if moments is None else lambda params, x, key: moments(*inner(params, x), key)
