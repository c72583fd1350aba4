"""Initialisers and layers of the built-in networks: parameters are dicts of arrays."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.ops import conv_general_dilated
from innerloop.types import PRNGKey

Weights: TypeAlias = dict[str, Array]
Initializer: TypeAlias = Callable[[PRNGKey, tuple[int, ...]], Array]
Convolution: TypeAlias = Callable[..., Array]
"""`jax.lax.conv_general_dilated`, or another function of the same arguments"""

glorot: Initializer = jax.nn.initializers.glorot_uniform()


def truncated_normal(stddev: float) -> Initializer:
    """Normal with standard deviation `stddev`, cut off at two of them (and, as in TensorFlow, not rescaled)."""
    return lambda key, shape: stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape)


def normal(stddev: float) -> Initializer:
    """Normal with standard deviation `stddev`."""
    return lambda key, shape: stddev * jax.random.normal(key, shape)


def dense_init(key: PRNGKey, inputs: int, outputs: int, initializer: Initializer) -> Weights:
    return {"kernel": initializer(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def dense(weights: Weights, x: Array) -> Array:
    return x @ weights["kernel"] + weights["bias"]


def conv_init(key: PRNGKey, size: int, inputs: int, outputs: int, *, bias: bool) -> Weights:
    kernel = {"kernel": glorot(key, (size, size, inputs, outputs))}
    return kernel | {"bias": jnp.zeros(outputs)} if bias else kernel


def conv(weights: Weights, x: Array, stride: int = 1, *, convolution: Convolution = conv_general_dilated) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    y = convolution(x, weights["kernel"], (stride, stride), "SAME", dimension_numbers=numbers)
    return y + weights["bias"] if "bias" in weights else y
