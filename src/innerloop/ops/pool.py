"""Pooling without overlap, as a reshape: its derivatives are cheap and deterministic on every platform."""

import jax.numpy as jnp
from jax import Array


def max_pool(x: Array, size: int) -> Array:
    """Maximum over windows of `size` x `size` that do not overlap; a remainder at the border is dropped.

    Args:
        x: `[examples, height, width, channels]`.
        size: of the window, and its stride.

    Returns:
        `[examples, height // size, width // size, channels]`. Where values tie, the gradient is shared among them.
    """
    examples, height, width, channels = x.shape
    height, width = height // size, width // size
    x = x[:, : height * size, : width * size].reshape(examples, height, size, width, size, channels)
    return jnp.max(x, axis=(2, 4))
