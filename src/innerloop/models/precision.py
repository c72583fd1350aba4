"""Networks computed in another floating-point type than their parameters are stored in."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from innerloop.models.base import Model
from innerloop.types import Params, PRNGKey


def in_precision(model: Model, dtype: DTypeLike) -> Model:
    """The same network, computed in `dtype`.

    Parameters and inputs are cast where the network is applied. Parameters, and so inner gradients, adapted parameters
    and the meta-gradient, are kept in at least single precision, and so are outputs, losses and the statistics of
    normalisation: with `bfloat16` only the network's own products and activations are short. With `float64` all are
    long, which needs `jax.config.update("jax_enable_x64", True)`.

    Args:
        model: a network.
        dtype: `jnp.bfloat16`, `jnp.float16`, `jnp.float32` or `jnp.float64`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import models
        >>> model = models.in_precision(models.mlp(1, (8,), 1), jnp.bfloat16)
        >>> params = model.init(jax.random.key(0))
        >>> params["head"]["kernel"].dtype, model.apply(params, jnp.ones((2, 1))).dtype
        (dtype('float32'), dtype('float32'))
    """
    stored = jnp.promote_types(dtype, jnp.float32)

    def init(key: PRNGKey) -> Params:
        return _cast(model.init(key), stored)

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        outputs = model.apply(_cast(params, dtype), _cast(x, dtype), key=key, moments=moments)
        return outputs.astype(stored)

    moments_of = model.moments
    return Model(
        init,
        apply,
        moments=moments_of
        and (lambda params, x, key: _cast(moments_of(_cast(params, dtype), _cast(x, dtype), key), stored)),
        running=model.running,
    )


def _cast(tree: Any, dtype: DTypeLike) -> Any:
    """The tree with its floating-point leaves in another type."""

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    return jax.tree.map(one, tree)
