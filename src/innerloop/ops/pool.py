"""Pooling without overlap, as a reshape: its derivatives are cheap and deterministic on every platform."""

import jax
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
    return _maximum(x)


@jax.custom_jvp
def _maximum(windows: Array) -> Array:
    """Maximum over the axes 2 and 4."""
    return jnp.max(windows, axis=(2, 4))


@_maximum.defjvp
def _maximum_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The mean of the tangents of those that tie for the maximum.

    JAX's own rule finds them by comparison with the maximum. A compiler may compute the values once more for that,
    rounded otherwise; none is then equal to it, and their mean is 0 / 0. Here values are compared with the largest
    before them, and at least the first or a larger one is counted whatever the comparisons say.
    """
    (windows,), (tangent,) = primals, tangents
    size = windows.shape[2]
    largest, total = windows[:, :, 0, :, 0], tangent[:, :, 0, :, 0]
    count = jnp.ones_like(largest)
    for place in range(1, size**2):
        row, column = divmod(place, size)
        value, slope = windows[:, :, row, :, column], tangent[:, :, row, :, column]
        larger, ties = value > largest, value == largest
        total = jnp.where(larger, slope, jnp.where(ties, total + slope, total))
        count = jnp.where(larger, 1, jnp.where(ties, count + 1, count))
        largest = jnp.maximum(largest, value)
    return _maximum(windows), total / count
