"""An update that is made only where its numbers are numbers."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

SKIPPED = "skipped"
"""The metric that is 1 of a step that was left out because its gradient is not finite."""

Tree = TypeVar("Tree")


def all_finite(tree: Any) -> Array:
    """Whether every floating-point number of a tree is finite; other leaves count as finite.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.array(jnp.inf)}))
        False
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves] or [True]))


def updated_where(usable: Array, after: Tree, before: Tree) -> Tree:
    """`after` where an update is usable, otherwise `before`, leaf by leaf; no NaN of the one reaches the other.

    Args:
        usable: a boolean scalar.
        after: a pytree of arrays and keys.
        before: another of the same structure.
    """
    return jax.tree.map(lambda new, old: jnp.where(usable, new, old), after, before)
