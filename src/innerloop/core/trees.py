"""Trees of arrays: which leaves have a gradient, what they are called, and how to take a tree apart by a mask."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.types import Mask, Params


def is_differentiable(leaf: Any) -> bool:
    """Whether a leaf has a gradient: floating point and complex numbers do; integers, booleans and keys do not."""
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact)


def differentiable(tree: Params) -> Mask:
    """The mask of the leaves that have a gradient."""
    return jax.tree.map(is_differentiable, tree)


def split(tree: Params, mask: Mask) -> tuple[Params, Params]:
    """Take a tree apart by a mask: the chosen leaves, and the others; `None` stands for what the other half holds."""
    chosen = jax.tree.map(lambda leaf, keep: leaf if keep else None, tree, mask)
    others = jax.tree.map(lambda leaf, keep: None if keep else leaf, tree, mask)
    return chosen, others


def merge(chosen: Params, others: Params) -> Params:
    """The inverse of `split`.

    Example:
        >>> tree = {"bias": 1.0, "kernel": 2.0}
        >>> merge(*split(tree, {"bias": True, "kernel": False})) == tree
        True
    """
    return jax.tree.map(lambda a, b: b if a is None else a, chosen, others, is_leaf=lambda leaf: leaf is None)


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths; of a key the numbers that it stands for.

    Example:
        >>> list(arrays_of({"head": {"bias": 1.0}}).items())
        [('head/bias', array(1.))]
    """
    numbers = {path_name(path): _numbers(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    return {name: np.asarray(leaf) for name, leaf in numbers.items()}


def _numbers(leaf: Any) -> Any:
    is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def as_arrays(tree: Any) -> Any:
    """The same tree with JAX's arrays in the place of NumPy's, which no traced index can take from."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, tree)


def path_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf as `"conv1/kernel"`.

    Example:
        >>> import jax
        >>> [path_name(path) for path, _ in jax.tree.leaves_with_path({"head": {"bias": 1, "kernel": 2}})]
        ['head/bias', 'head/kernel']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")
