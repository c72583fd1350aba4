"""Convolutions with one kernel for all examples, in the forms that XLA's CPU kernels are fast for.

These take `[examples, *space, channels]` and `[*window, channels, filters]`, with the numbers in memory in this order.
Inside of a loop XLA computes any other order by plain loops, 10 to 100 times slower, and so it does where it has taken
the reversal of a kernel, which is part of the gradient of the input, into the convolution
(https://github.com/jax-ml/jax/issues/12868).

For two of the convolutions that a gradient consists of it has no such kernels. That of a kernel has few positions, and
a window as large as the image: one matrix product for each position takes a third of the time. That of the input of a
convolution with strides has gaps in its input: here one product fills the gaps' neighbours, and nothing is multiplied
by zero.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

CACHED = 2**18
"""Bytes of the input that a kernel's gradient takes at a time, at most, unless a single example has more."""
FEWEST_CHANNELS = 4
"""Fewer are filled up with zeros in a convolution, and joined over the window in a kernel's gradient."""


def single_convolution(x: Array, kernel: Array, shape: Sequence[int], parameters: Any) -> Array | None:
    """What `lax.conv_general_dilated` gives of these operands.

    Args:
        x: the operand on the left.
        kernel: the operand on the right.
        shape: of the result.
        parameters: those of the operation.

    Returns:
        The result; `None` for a convolution in groups, which stays as it is.
    """
    if parameters["feature_group_count"] > 1 or parameters["batch_group_count"] > 1:
        return None
    left, right, out = parameters["dimension_numbers"]
    strides, padding, gaps, dilation = (
        parameters[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
    )
    settings = {name: parameters[name] for name in ("precision", "preferred_element_type")}
    window, space = [kernel.shape[axis] for axis in right[2:]], [shape[axis] for axis in out[2:]]
    if set(gaps) == {1} and 0 < prod(space) < prod(window):
        x = x.transpose(left[1], *left[2:], left[0])  # [examples, *space, channels]: its batch are the channels
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*ends, 0) for ends in padding), (0, 0, 0)])
        rising = kernel.transpose(right[1], *right[2:], right[0])  # [examples, *window, filters]
        found = _kernel_gradient(x, rising, space, strides, dilation, settings)  # [*space, filters, channels]
        return _ordered(found, (*out[2:], out[1], out[0]))
    x = x.transpose(left[0], *left[2:], left[1])
    kernel = kernel.transpose(*right[2:], right[1], right[0])
    if set(gaps) != {1} and set(strides) == {1}:
        found = _over_gaps(x, kernel, space, padding, gaps, dilation, settings)
    else:
        missing = max(FEWEST_CHANNELS - x.shape[-1], 0)
        if missing:
            x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, missing)])
            kernel = jnp.pad(kernel, [*[(0, 0)] * (x.ndim - 2), (0, missing), (0, 0)])
        axes = range(x.ndim)
        order = (0, axes[-1], *axes[1:-1])
        orders = lax.ConvDimensionNumbers(order, (axes[-1], axes[-2], *axes[:-2]), order)
        x, kernel = lax.optimization_barrier((x, kernel))  # else XLA would turn them back
        found = lax.conv_general_dilated(x, kernel, strides, padding, gaps, dilation, orders, **settings)
    return _ordered(found, (out[0], *out[2:], out[1]))


def _kernel_gradient(
    x: Array,
    rising: Array,
    space: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    settings: dict[str, Any],
) -> Array:
    """`[*space, filters, channels]`, each place the product of what flows back with a slice of the padded input."""
    examples, channels, filters = x.shape[0], x.shape[-1], rising.shape[-1]
    extents = [(size - 1) * step + 1 for size, step in zip(rising.shape[1:-1], dilation, strict=True)]
    fitting = max(CACHED // max(x.nbytes // examples, 1), 1)
    together = max(number for number in range(1, min(fitting, examples) + 1) if examples % number == 0)

    def from_examples(first: Any) -> Array:
        seen, flows = (lax.dynamic_slice_in_dim(leaf, first, together) for leaf in (x, rising))
        flows = flows.reshape(-1, filters)
        parts = []
        for place in product(*(range(number) for number in space)):
            starts = [i * step for i, step in zip(place, strides, strict=True)]
            ends = [start + extent for start, extent in zip(starts, extents, strict=True)]
            part = lax.slice(seen, (0, *starts, 0), (together, *ends, channels), (1, *dilation, 1))
            parts.append(part.reshape(-1, channels))
        # Copies of one operand, transposed: the products are twice as fast.
        if channels < FEWEST_CHANNELS:
            joined = lax.optimization_barrier(jnp.concatenate(parts, axis=-1).T)
            return lax.dot_general(joined, flows, (((1,), (0,)), ((), ())), **settings)
        flows, parts = lax.optimization_barrier((flows.T, parts))
        products = [lax.dot_general(flows, part, (((1,), (0,)), ((), ())), **settings) for part in parts]
        return jnp.stack(products)

    if examples == together:
        total = from_examples(0)
    else:
        found = jax.eval_shape(from_examples, 0)
        firsts = jnp.arange(0, examples, together)
        nothing = jnp.zeros(found.shape, found.dtype)
        total, _ = lax.scan(lambda total, first: (total + from_examples(first), None), nothing, firsts)
    if channels < FEWEST_CHANNELS:
        return total.reshape(*space, channels, filters).swapaxes(-1, -2)
    return total.reshape(*space, filters, channels)


def _over_gaps(
    x: Array,
    kernel: Array,
    space: Sequence[int],
    padding: Sequence[tuple[int, int]],
    gaps: Sequence[int],
    dilation: Sequence[int],
    settings: dict[str, Any],
) -> Array:
    """`[examples, *space, filters]`: every number of the input times the whole kernel, and what falls on a place added.

    Each place of the window moves the products against the input, which is why they are padded or cut.
    """
    *window, channels, filters = kernel.shape
    side = kernel.reshape(prod(window), channels, filters).swapaxes(0, 1).reshape(channels, -1)
    products = lax.dot_general(x, side, (((x.ndim - 1,), (0,)), ((), ())), **settings)
    zero = jnp.zeros((), products.dtype)
    total: Any = 0
    for number, place in enumerate(product(*(range(size) for size in window))):
        moved = [(0, 0, 0)]
        for size, length, (low, _), gap, offset, step in zip(
            space, x.shape[1:-1], padding, gaps, place, dilation, strict=True
        ):
            before = low - offset * step
            moved.append((before, size - before - (length - 1) * gap - 1, gap - 1))
        part = lax.slice_in_dim(products, number * filters, (number + 1) * filters, axis=-1)
        total += lax.pad(part, zero, [*moved, (0, 0, 0)])
    return total


def _ordered(x: Array, places: Sequence[int]) -> Array:
    """The array with its first axis at the first of these places, and so on."""
    order = [0] * x.ndim
    for axis, place in enumerate(places):
        order[place] = axis
    return x.transpose(order)
