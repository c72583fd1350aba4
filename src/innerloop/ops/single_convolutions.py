"""Convolutions with one kernel for all examples, in the forms that XLA's CPU kernels are fast for.

These take `[examples, *space, channels]` and `[*window, channels, filters]`, with the numbers in memory in this order.
Inside of a loop XLA computes any other order by plain loops, 10 to 100 times slower, and so it does where it has taken
the reversal of a kernel, which is part of the gradient of the input, into the convolution
(https://github.com/jax-ml/jax/issues/12868).

The gradient of a kernel is a convolution too: of a few positions, with a window as large as the image, for which no
kernel of XLA's is made. One matrix product for each position takes a third of the time.
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
"""Fewer are filled up with zeros."""


def single_convolution(x: Array, kernel: Array, parameters: Any) -> Array | None:
    """What `lax.conv_general_dilated` gives of these operands.

    Args:
        x: the operand on the left.
        kernel: the operand on the right.
        parameters: those of the operation.

    Returns:
        The result; `None` for a convolution in groups, which stays as it is.
    """
    if parameters["feature_group_count"] > 1 or parameters["batch_group_count"] > 1:
        return None
    numbers = parameters["dimension_numbers"]
    left, right, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    strides, dilation, padding = (parameters[name] for name in ("window_strides", "rhs_dilation", "padding"))
    settings = {name: parameters[name] for name in ("precision", "preferred_element_type")}
    window = [kernel.shape[axis] for axis in right[2:]]
    space = [result.shape[axis] for axis in out[2:] for result in [_result(x, kernel, parameters)]]
    if set(parameters["lhs_dilation"]) == {1} and 0 < prod(space) < prod(window):
        x = x.transpose(left[1], *left[2:], left[0])  # [examples, *space, channels]: its batch are the channels
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*ends, 0) for ends in padding), (0, 0, 0)])
        rising = kernel.transpose(right[1], *right[2:], right[0])  # [examples, *window, filters]
        found = _kernel_gradient(x, rising, space, strides, dilation, settings)  # [*space, filters, channels]
        return _ordered(found, (out[1], *out[2:], out[0]), (len(space), *range(len(space)), len(space) + 1))
    x = x.transpose(left[0], *left[2:], left[1])
    kernel = kernel.transpose(*right[2:], right[1], right[0])
    missing = max(FEWEST_CHANNELS - x.shape[-1], 0)
    if missing:
        x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, missing)])
        kernel = jnp.pad(kernel, [*[(0, 0)] * (x.ndim - 2), (0, missing), (0, 0)])
    last = tuple(range(1, x.ndim - 1))
    orders = lax.ConvDimensionNumbers(
        (0, x.ndim - 1, *last), (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)), (0, x.ndim - 1, *last)
    )
    x, kernel = lax.optimization_barrier((x, kernel))  # else XLA would turn them back
    found = lax.conv_general_dilated(
        x, kernel, strides, padding, parameters["lhs_dilation"], dilation, orders, **settings
    )
    return _ordered(found, (out[0], *out[2:], out[1]), range(x.ndim))


def _result(x: Array, kernel: Array, parameters: Any) -> Any:
    """The shape of the result."""
    return jax.eval_shape(lambda x, kernel: lax.conv_general_dilated_p.bind(x, kernel, **parameters), x, kernel)


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
        flows = lax.optimization_barrier(flows.reshape(-1, filters).T)  # a copy: the products are twice as fast
        products = []
        for place in product(*(range(number) for number in space)):
            starts = [i * step for i, step in zip(place, strides, strict=True)]
            ends = [start + extent for start, extent in zip(starts, extents, strict=True)]
            part = lax.slice(seen, (0, *starts, 0), (together, *ends, channels), (1, *dilation, 1))
            part = lax.optimization_barrier(part.reshape(-1, channels))
            products.append(lax.dot_general(flows, part, (((1,), (0,)), ((), ())), **settings))
        return jnp.stack(products)

    if examples == together:
        total = from_examples(0)
    else:
        nothing = jnp.zeros((prod(space), filters, channels), jax.eval_shape(from_examples, 0).dtype)
        firsts = jnp.arange(0, examples, together)
        total, _ = lax.scan(lambda total, first: (total + from_examples(first), None), nothing, firsts)
    return total.reshape(*space, filters, channels)


def _ordered(x: Array, places: Sequence[int], axes: Sequence[int]) -> Array:
    """The array with each of these axes at its place."""
    order = [0] * x.ndim
    for place, axis in zip(places, axes, strict=True):
        order[place] = axis
    return x.transpose(order)
