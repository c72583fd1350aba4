r"""A bound on the inner gradient, so that the inner loop of no task runs away."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.types import InnerRule, Params, RuleParams, Step


def bounded(rule: InnerRule, *, growth: float | None = None, norm: float | None = None) -> InnerRule:
    r"""The same rule, fed with an inner gradient that is scaled down where it is longer than a bound.

    $$ g_t \leftarrow g_t \min\Bigl(1, \frac{b}{\lVert g_t\rVert}\Bigr), \qquad
       b = c\,\lVert g_0\rVert \ (\text{growth } c) \quad\text{or}\quad b = c \ (\text{norm } c), $$

    with the norm over all adapted parameters of the task together, and $g_0$ the gradient of the task's first inner
    step. Where training diverges, it is one task whose inner loop overflows; to clip the *meta*-gradient then makes it
    worse, since one finite spike freezes Adam for hundreds of steps. A growth of 1 asks that the gradient descends, has
    no scale to choose, and never binds at the first step. A gradient within the bound keeps its bits, and the scaling
    is differentiated like all else.

    Args:
        rule: the rule to bound. It goes inside of `counting`, whose counter has no gradient.
        growth: the largest norm of an inner gradient, relative to that of the task's first.
        norm: the largest norm of an inner gradient.

    Returns:
        The bounded rule. It learns what `rule` does.

    Raises:
        InnerloopError: unless exactly one bound is given, a positive number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Meta, adapt
        >>> from innerloop.core import rules
        >>> loss = lambda theta, batch, key: (theta**2, {})  # any step above 1 diverges
        >>> for rule in (rules.sgd(1.5), rules.bounded(rules.sgd(1.5), growth=1.0)):
        ...     end = adapt(loss, Meta(jnp.array(1.0), ()), jnp.zeros(1), jax.random.key(0), rule=rule, steps=4)
        ...     print(end.params)
        16.0
        1.0
    """
    given = {name: value for name, value in (("growth", growth), ("norm", norm)) if value is not None}
    if len(given) != 1:
        raise InnerloopError("bounded takes one bound: growth= (of the task's first inner gradient) or norm=.")
    ((name, bound),) = given.items()
    if not 0 < bound < float("inf"):
        raise InnerloopError(f"bounded({name}={bound}) needs a positive number.")

    def transform(learned: RuleParams, step: Step) -> optax.GradientTransformation:
        inner = rule.transform(learned, step)

        def init(params: Params) -> Any:
            floats = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
            return jnp.zeros((), jnp.result_type(*floats)), inner.init(params)

        def update(gradients: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
            first, inner_state = state
            length = _norm(gradients).astype(first.dtype)
            first = jnp.where(step == 0, length, first)
            largest = bound * first if name == "growth" else jnp.asarray(bound, first.dtype)
            over = length > largest
            share = jnp.where(over, largest / jnp.where(over, length, 1), 1)
            gradients = jax.tree.map(lambda g: g * share.astype(g.dtype), gradients)
            updates, inner_state = inner.update(gradients, inner_state, params)
            return updates, (first, inner_state)

        return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]

    return rule._replace(transform=transform)


def _norm(tree: Params) -> Array:
    """The norm over all leaves, which overflows only where an entry does, and whose derivative at zero is zero."""
    leaves = jax.tree.leaves(tree)
    largest = lax.stop_gradient(jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves])))
    scale = jnp.where(largest > 0, largest, 1)
    squares = sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves)
    return scale * jnp.sqrt(jnp.where(largest > 0, squares, 1)) * (largest > 0)
