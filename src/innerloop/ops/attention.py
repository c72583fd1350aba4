"""Attention in memory linear in the length, differentiable as often as one likes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from innerloop.errors import InnerloopError

BLOCK = 128
"""Queries that attend at a time."""


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    local_window_size: int | tuple[int, int] | None = None,
    block: int = BLOCK,
) -> Array:
    r"""`jax.nn.dot_product_attention`, a block of queries at a time: equal up to rounding, in every derivative.

    $$ \operatorname{softmax}\bigl(s\, Q_b K^\top + \text{bias}_b\bigr)\, V \qquad \text{for each block } Q_b $$

    The weights of a block, `block` times the length, are computed anew in each backward pass and never kept, in the
    derivative of a derivative neither. Fused kernels have a first derivative only; this is made of plain operations, so
    that meta-gradients, Hessian-vector products and forward mode go through. Lengths of sequences are given as a mask.

    Args:
        query: `[batch, length, heads, size]`, or without the batch.
        key: `[batch, keys, key heads, size]`; each of its heads serves `heads / key heads` of the query's.
        value: as `key`.
        bias: added to the logits, `[batch, heads, length, keys]`, each of them perhaps 1.
        mask: true where a query may attend, of such a shape.
        scale: $s$; one over the root of `size` unless given.
        is_causal: a query attends to keys up to its own position.
        local_window_size: how far a query attends to the left and to the right, one number for both or two.
        block: queries that attend at a time.

    Returns:
        As the query.

    Raises:
        InnerloopError: if the block is not positive, or the window is longer than the keys.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import ops
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 300, 2, 8))
        >>> ours = ops.dot_product_attention(q, k, v, is_causal=True)
        >>> theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        >>> print(bool(jnp.abs(ours - theirs).max() < 1e-5))
        True
    """
    keys = key.shape[-3]
    if block < 1:
        raise InnerloopError(f"dot_product_attention(block={block}) needs blocks of at least 1 query.")
    window = (local_window_size,) * 2 if isinstance(local_window_size, int) else local_window_size
    if window is not None and max(window) > keys:
        raise InnerloopError(
            f"The attention window is {local_window_size}, longer than the {keys} keys; shorten it, or leave it out."
        )
    if query.ndim == 3:
        batched = (leaf if leaf is None else leaf[None] for leaf in (query, key, value))
        lifted = (leaf[None] if leaf is not None and leaf.ndim == 3 else leaf for leaf in (bias, mask))
        options: dict[str, Any] = {"scale": scale, "is_causal": is_causal, "local_window_size": window, "block": block}
        return dot_product_attention(*batched, *lifted, **options)[0]
    length = query.shape[1]
    blocks = -(-length // block)

    def cut(array: Array | None, axis: int) -> Array | None:
        """The array as `[blocks, ...]` along the axis of the queries, filled up with zeros."""
        if array is None or array.shape[axis] == 1:
            return None
        filled = jnp.pad(array, [(0, blocks * block - length if i == axis else 0) for i in range(array.ndim)])
        return jnp.moveaxis(filled.reshape(*array.shape[:axis], blocks, block, *array.shape[axis + 1 :]), axis, 0)

    position = jnp.arange(keys)

    def allowed(rows: Array, mask: Array | None) -> Array | None:
        """Which of the keys the queries at these positions may attend to."""
        distance = position - rows[:, None]
        found = [] if mask is None else [mask]
        if is_causal:
            found.append((distance <= 0)[None, None])
        if window is not None:
            found.append(((distance >= -window[0]) & (distance <= window[1]))[None, None])
        total = None
        for each in found:
            total = each if total is None else total & each
        return total

    def attend(_: None, x: Any) -> tuple[None, Array]:
        queries, rows, its_bias, its_mask = x
        its_bias = bias if its_bias is None else its_bias
        its_mask = allowed(rows, mask if its_mask is None else its_mask)
        return None, _attention(queries, key, value, its_bias, its_mask, size**-0.5 if scale is None else scale)

    size = query.shape[-1]
    rows = jnp.arange(blocks * block).reshape(blocks, block)
    xs = cut(query, 1), rows, cut(bias, 2), cut(mask, 2)
    _, outputs = lax.scan(jax.checkpoint(attend, prevent_cse=False), None, xs)
    return jnp.moveaxis(outputs, 0, 1).reshape(query.shape[0], blocks * block, *query.shape[2:])[:, :length]


def _attention(query: Array, key: Array, value: Array, bias: Array | None, mask: Array | None, scale: float) -> Array:
    """Attention as it is written down; logits and weights in at least single precision."""
    batch, length, heads, size = query.shape
    key_heads = key.shape[2]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    grouped = query.reshape(batch, length, key_heads, heads // key_heads, size)

    def by_group(array: Array) -> Array:
        """`[batch, heads, length, keys]` with the heads as `[key heads, heads of each]`."""
        split = (1, 1) if array.shape[1] == 1 else (key_heads, heads // key_heads)
        return array.reshape(array.shape[0], *split, *array.shape[2:])

    logits = scale * jnp.einsum("btkgh,bskh->bkgts", grouped, key, preferred_element_type=wide)
    if bias is not None:
        logits += by_group(bias)
    if mask is not None:
        logits = jnp.where(by_group(mask), logits, 0.7 * jnp.finfo(wide).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, value).reshape(batch, length, heads, value.shape[-1])
