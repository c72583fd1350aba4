"""Convolution as patches and one matrix product.

`vmap` of `lax.conv_general_dilated` over tasks, each with a kernel of its own, becomes a grouped convolution, whose
backward pass runs 6 to 40 times slower on CPU than it need. Written as a matrix product, the task axis is an ordinary
batch axis, in every order of derivative.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax


def conv2d(x: Array, kernel: Array, stride: int = 1, padding: Literal["SAME", "VALID"] = "SAME") -> Array:
    """Two-dimensional convolution (cross-correlation, as in all deep learning libraries).

    Args:
        x: `[examples, height, width, channels]`.
        kernel: `[height, width, channels, filters]`.
        stride: of both axes.
        padding: `"SAME"` or `"VALID"`.

    Returns:
        `[examples, height, width, filters]`.
    """
    return conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """A drop-in for `jax.lax.conv_general_dilated`, for kernels that differ from task to task.

    Hand it to Flax: `nnx.Conv(..., conv_general_dilated=innerloop.ops.conv_general_dilated)`, and likewise in Linen.

    Args: those of `jax.lax.conv_general_dilated`. A `batch_group_count` other than 1 is left to it.

    Returns:
        The convolution, with the layout that `dimension_numbers` asks for.
    """
    if batch_group_count != 1:
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
            feature_group_count, batch_group_count, precision, preferred_element_type,
        )  # fmt: skip
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    rank = lhs.ndim - 2
    lhs_dilation = lhs_dilation or (1,) * rank
    rhs_dilation = rhs_dilation or (1,) * rank
    x = lhs.transpose(layout.lhs_spec[0], *layout.lhs_spec[2:], layout.lhs_spec[1])  # [examples, *space, channels]
    kernel = rhs.transpose(*layout.rhs_spec[2:], layout.rhs_spec[1], layout.rhs_spec[0])  # [*window, channels, filters]

    window = kernel.shape[:rank]
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(window, rhs_dilation, strict=True)]
    if isinstance(padding, str):
        dilated = [(size - 1) * d + 1 if size else 0 for size, d in zip(x.shape[1:-1], lhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(dilated, extents, window_strides, padding)
    space = [(low, high, dilation - 1) for (low, high), dilation in zip(padding, lhs_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *space, (0, 0, 0)])

    out = [(size - extent) // s + 1 for size, extent, s in zip(x.shape[1:-1], extents, window_strides, strict=True)]
    slices = [
        lax.slice(
            x,
            (0, *offset, 0),
            (
                x.shape[0],
                *(o + (n - 1) * s + 1 for o, n, s in zip(offset, out, window_strides, strict=True)),
                x.shape[-1],
            ),
            (1, *window_strides, 1),
        )
        for offset in product(*(range(0, extent, d) for extent, d in zip(extents, rhs_dilation, strict=True)))
    ]
    groups, rows = feature_group_count, (x.shape[0], *out)
    taps, channels, filters = len(slices), kernel.shape[-2], kernel.shape[-1]
    if groups == 1:
        patches = slices[0] if taps == 1 else jnp.concatenate(slices, axis=-1)
        patches = patches.reshape(-1, taps * channels)
        y = jnp.matmul(
            patches,
            kernel.reshape(taps * channels, filters),
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
    else:
        patches = jnp.stack([tap.reshape(-1, groups, channels) for tap in slices])
        y = jnp.einsum(
            "tngc,tcgf->ngf",
            patches,
            kernel.reshape(taps, channels, groups, filters // groups),
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
    y = y.reshape(*rows, filters)
    order = [0] * lhs.ndim
    for axis, place in enumerate((layout.out_spec[0], *layout.out_spec[2:], layout.out_spec[1])):
        order[place] = axis
    return y.transpose(order)
