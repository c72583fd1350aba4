"""optax optimisers inside an inner loop: what it cannot give them, and derivatives at a gradient of zero."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.types import Params

TINY = 1e-12
"""Stands in for the zeros at which a norm has no derivative; its square is a number in single precision."""
NEGLIGIBLE = 1e-9
"""No more than this may an update depend on it."""
NEEDS_MORE = re.compile(r"missing \d+ required keyword-only arguments?: (.*)")


def differentiated(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    r"""The same optimiser, whose update has a derivative also where gradients are zero, if clipping alone denies it.

    Clipping divides by a norm, whose derivative at zero is $0/0$, although nothing is clipped there. Such an optimiser
    is handed $10^{-12}$ in the place of each zero. Optimisers that this would change (Adam without `eps_root` divides
    by about as much) stay as they are.

    Args:
        optimizer: the optimiser.

    Raises:
        InnerloopError: if it is no optimiser, or needs more than gradients and parameters, as a line search does.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InnerloopError(
            f"from_optax takes an optax optimiser, such as optax.sgd(0.1), not a {type(optimizer).__name__}."
        )

    def plain(gradients: Params, state: Any, params: Params | None = None) -> Any:
        try:
            return optimizer.update(gradients, state, params)
        except TypeError as error:
            if not (found := NEEDS_MORE.search(str(error))):
                raise
            raise InnerloopError(
                f"This optax optimiser needs more than gradients and parameters ({found[1]}), which an inner loop does "
                "not hand on; line searches and Polyak's step size cannot be inner rules: use another optimiser."
            ) from error

    told = optax.GradientTransformation(optimizer.init, plain)  # pyright: ignore[reportArgumentType]
    if not _breaks_at_zero(told):
        return told

    def update(gradients: Params, state: Any, params: Params | None = None) -> Any:
        return plain(_without_zeros(gradients), state, _without_zeros(params))

    return optax.GradientTransformation(optimizer.init, update)  # pyright: ignore[reportArgumentType]


def _breaks_at_zero(optimizer: optax.GradientTransformation) -> bool:
    """Whether an update has no derivative at a gradient of zero, but has one, and hardly differs, next to it."""
    try:
        value, slope = _update_at(optimizer, 0.0)
        near, near_slope = _update_at(optimizer, TINY)
        same = jnp.all(jnp.abs(near - value) < NEGLIGIBLE)
        return bool(same & ~jnp.all(jnp.isfinite(slope)) & jnp.all(jnp.isfinite(near_slope)))
    except InnerloopError:
        raise
    except Exception:  # it is made for other parameters than those of this trial, or holds traced hyperparameters
        return False


def _update_at(optimizer: optax.GradientTransformation, value: float) -> tuple[Array, Array]:
    """An update of two parameters of that value with gradients of that value, and its derivative by all of them."""

    def update(gradient: Array, weight: Array) -> Array:
        params = {"w": weight}
        updates: Any = optimizer.update({"w": gradient}, optimizer.init(params), params)[0]
        return updates["w"]

    start = jnp.full(2, value)
    _, pullback = jax.vjp(update, start, start)
    moved = update(start, start)
    return moved, jnp.concatenate(pullback(jnp.ones(2)))


def _without_zeros(tree: Params) -> Params:
    def shifted(leaf: Array) -> Array:  # a sum, so that the derivative with respect to the leaf stays 1
        return leaf + jnp.where(leaf == 0, TINY, 0.0).astype(jnp.result_type(leaf))

    return jax.tree.map(shifted, tree)
