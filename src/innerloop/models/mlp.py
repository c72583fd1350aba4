"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.models.base import Model
from innerloop.models.layers import Initializer, dense, dense_init, truncated_normal
from innerloop.models.norm import Moments, Normalisation, from_forward
from innerloop.types import Params, PRNGKey


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Array], Array] = jax.nn.relu,
    initializer: Initializer = truncated_normal(0.01),
    normalisation: Normalisation | None = None,
) -> Model:
    """A multilayer perceptron; with the defaults and `hidden=(40, 40)` the paper's network for sinusoids.

    Args:
        inputs: number of input features; trailing axes of the input are flattened.
        hidden: width of each hidden layer.
        outputs: number of outputs.
        activation: after each hidden layer.
        initializer: of the kernels; biases start at 0.
        normalisation: before each activation; `None` for none.

    Returns:
        A model from `[examples, ...]` to `[examples, outputs]`.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, 2017, section 5.1; the initial scale is that of its code.
    """
    widths = (inputs, *hidden, outputs)
    names = [f"dense{i}" for i in range(1, len(hidden) + 1)] + ["head"]

    def init(key: PRNGKey) -> Params:
        keys = jax.random.split(key, len(names))
        params: dict[str, Any] = {
            name: dense_init(key, *shape, initializer)
            for name, key, shape in zip(names, keys, pairwise(widths), strict=True)
        }
        if normalisation is not None:
            params |= {f"norm{i}": normalisation.init(width) for i, width in enumerate(hidden, 1)}
        return params

    def forward(params: Params, x: Array, key: PRNGKey | None, moments: Moments | None) -> tuple[Array, Moments]:
        used: Moments = {}
        x = jnp.reshape(x, (x.shape[0], -1))
        for i in range(1, len(hidden) + 1):
            x = dense(params[f"dense{i}"], x)
            if normalisation is not None:
                name = f"norm{i}"
                x, seen = normalisation.apply(name, params[name], x, moments)
                used |= seen
            x = activation(x)
        return dense(params["head"], x), used

    return from_forward(init, forward, normalisation is not None)
