r"""Sums that are computed once: residual streams, and their derivatives, on a CPU.

XLA's CPU backend computes what it takes to be cheap anew for every reader, such as a sum. So the stream of a residual
network, $x_{i+1} = x_i + f_i(x_i)$, is summed up from its beginning wherever a block reads it, and so is its cotangent:
the time of a gradient grows with the *square* of the depth. What comes out of a condition is computed once. XLA leaves
out a condition whose outcome it can see, hence one that it cannot: $n(n+1)$ is even, for an integer $n$ that is known
at run time alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

SMALLEST = 2**14
"""Numbers in a sum, at least: what is smaller is computed anew in no time."""
SEEN = 8
"""Arguments of which the integer is made, at most: some are constants, which XLA sees, but not all."""


def streams(jaxpr: Any, uses: Mapping[Any, Sequence[Any]]) -> set[Any]:
    """The results that are best computed once: large sums with several uses, of which one term is such a sum itself.

    Args:
        jaxpr: the program.
        uses: the equations that use each of its variables.
    """
    found: set[Any] = set()
    read_again: set[Any] = set()  # sums with several uses, and sums of these
    for equation in jaxpr.eqns:
        if equation.primitive.name not in ("add", "add_any"):
            continue
        (out,) = equation.outvars
        terms = [atom for atom in equation.invars if not isinstance(atom, core.Literal)]
        alike = len(terms) == 2 and all(term.aval.shape == out.aval.shape for term in terms)
        if not alike or out.aval.size < SMALLEST or not _is_float(out.aval):
            continue
        goes_on = any(term in read_again for term in terms)
        if len(uses[out]) > 1 and goes_on:
            found.add(out)
        if len(uses[out]) > 1 or goes_on:
            read_again.add(out)
    return found


def always(arguments: Sequence[Any]) -> Array | None:
    """True, as XLA cannot know, from the arguments of a program; `None` if there are no floating-point numbers."""
    arrays = [each for each in arguments if isinstance(each, Array) and _is_float(each) and _has_first(each)]
    if not arrays:
        return None
    number = jnp.int32(0)
    for array in arrays[:: -(-len(arrays) // SEEN)]:
        first = lax.slice(array, (0,) * array.ndim, (1,) * array.ndim).reshape(())
        number ^= lax.bitcast_convert_type(first, jnp.dtype(f"int{8 * array.dtype.itemsize}")).astype(jnp.int32)
    return number * (number + 1) % 2 == 0


def computed_once(x: Array, true: Array) -> Array:
    """The same bits, computed once for all that use them, where `true` is `always(...)`."""
    return lax.cond(true, lambda x: x, lambda x: -x, x)


def _is_float(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _has_first(array: Array) -> bool:
    """Whether there is a first number that can be taken out, which there is not if devices hold a part each."""
    return bool(array.size) and all(axes is None for axes in jax.typeof(array).sharding.spec)
