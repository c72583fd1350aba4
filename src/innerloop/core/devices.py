"""Arrays on devices of several processes: how they are placed there, read, and summed in one order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding


def sum_over_shards(tree: Any, axes: tuple[str, ...], shards: int) -> Any:
    """The sum of the shards' trees, on every shard.

    On a CPU in the order of the shards, whatever carries the numbers: threads of one process add in another order than
    gloo does between processes. Each shard gets its part of all trees, adds, and hands out the sum, which moves as many
    bytes as a ring of all-reduce does. Accelerators keep the all-reduce of their own network.
    """
    if jax.default_backend() != "cpu":
        return lax.psum(tree, axes)
    leaves, structure = jax.tree.flatten(tree)
    summed: list[Any] = [None] * len(leaves)
    for kind in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == kind]
        flat = jnp.concatenate([leaves[i].reshape(-1) for i in places])
        parts = jnp.pad(flat, (0, -flat.size % shards)).reshape(shards, -1)
        own = jnp.sum(lax.all_to_all(parts, axes, 0, 0, tiled=True), axis=0, dtype=kind)
        whole = lax.all_gather(own, axes, tiled=True)
        start = 0
        for i in places:
            summed[i] = whole[start : start + leaves[i].size].reshape(leaves[i].shape)
            start += leaves[i].size
    return jax.tree.unflatten(structure, summed)


def own_copy(leaf: Any) -> Any:
    """What this process holds of an array that every device holds whole, as an array of its own."""
    if isinstance(leaf, Array) and not leaf.is_fully_addressable:
        return leaf.addressable_data(0)
    return leaf


def placed(leaf: Any, sharding: NamedSharding) -> Any:
    """An array that every process has, or has a part of, on the devices of all processes."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
    if is_key(leaf):
        data = placed(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, Array) and leaf.sharding == sharding:
        return leaf
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def is_key(leaf: Any) -> bool:
    return isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
