"""Pooling without overlap, as a reshape: its derivatives are cheap and deterministic on every platform."""

from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array


def max_pool(x: Array, size: int) -> Array:
    """Maximum over windows of `size` x `size` that do not overlap; a remainder at the border is dropped.

    Args:
        x: `[examples, height, width, channels]`.
        size: of the window, and its stride.

    Returns:
        `[examples, height // size, width // size, channels]`. Where values tie, the first has the gradient.
    """
    examples, height, width, channels = x.shape
    height, width = height // size, width // size
    x = x[:, : height * size, : width * size].reshape(examples, height, size, width, size, channels)
    return _maximum(x)


@jax.custom_jvp
def _maximum(windows: Array) -> Array:
    """Maximum over the axes 2 and 4, one place after another: XLA's reduction takes several times as long on a CPU."""
    return reduce(jnp.maximum, _places(windows))


@_maximum.defjvp
def _maximum_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The tangent of the first place with the largest value.

    JAX's own rule finds it by comparison with the maximum. A compiler may compute the values once more for that,
    rounded otherwise; none is then equal to it. Here every window has one chosen place whatever the comparisons say.
    And the transpose of a selection is a selection, while that of slices would be an array with gaps for each place.
    """
    (windows,), (tangent,) = primals, tangents
    size = windows.shape[2]
    first, *others = _places(windows)
    largest, chosen = first, jnp.zeros(first.shape, jnp.int32)
    for number, value in enumerate(others, 1):
        chosen = jnp.where(value > largest, number, chosen)
        largest = jnp.maximum(largest, value)
    numbers = jnp.arange(size**2).reshape(1, 1, size, 1, size, 1)
    here = numbers == chosen[:, :, None, :, None]
    return _maximum(windows), jnp.sum(jnp.where(here, tangent, 0), axis=(2, 4))


def _places(windows: Array) -> list[Array]:
    """The values at each place of the windows, row by row."""
    size = windows.shape[2]
    return [windows[:, :, row, :, column] for row in range(size) for column in range(size)]
