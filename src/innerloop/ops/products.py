"""Matrix products in the one form that XLA's CPU kernels are fast for.

These take `[..., rows, inner] x [..., inner, columns]`, with the numbers in memory in this order. The gradient of a
weight, $x^\\top g$, is not of this form, nor is half of what its derivative consists of; XLA then falls back on kernels
that take 1.5 to 3 times as long. A copy of an operand in the right order costs far less.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

INNER = {
    "jit": ("jaxpr",),
    "closed_call": ("call_jaxpr",),
    "checkpoint": ("jaxpr",),
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
}
"""The operations that contain others, and the parameters that hold these."""


def row_major(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its matrix products computed from operands copied into the form that is fast on a CPU.

    Apply it outside of `jax.grad` and `jax.vmap`, whose products are those worth changing, and inside of `jax.jit`.
    Products that have this form already, and those with a vector, stay as they are. Values change by rounding at most.

    Args:
        function: from pytrees of arrays to a pytree of arrays.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop.ops import row_major
        >>> x = jnp.arange(6.0).reshape(2, 3)
        >>> gradient = jax.grad(lambda weight: jnp.sum((x @ weight) ** 2))
        >>> print(row_major(gradient)(jnp.eye(3)) - gradient(jnp.eye(3)))
        [[0. 0. 0.]
         [0. 0. 0.]
         [0. 0. 0.]]
    """

    def rewritten(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(closed.jaxpr, closed.consts, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


def _evaluate(jaxpr: Any, consts: Sequence[Any], *arguments: Any) -> list[Any]:
    """Compute what a jaxpr says, with its matrix products rewritten."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    uses, absorbed = _uses(jaxpr), set()  # the results of transpositions that a product has taken in

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        if any(out in absorbed for out in equation.outvars):
            continue
        operands = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        with equation.ctx.manager:
            if name == "dot_general":
                turned = _turned(equation, uses[equation.outvars[0]])
                product = _product(operands[0], operands[1], turned is not None, **equation.params)
                if product is not None:
                    values[turned or equation.outvars[0]] = product
                    absorbed |= {turned}
                    continue
            parameters = dict(equation.params)
            for inner in INNER.get(name, ()):
                parameters[inner] = _rewritten(parameters[inner])
            results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(parameters))
        results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _uses(jaxpr: Any) -> dict[Any, list[Any]]:
    """The equations that use each variable; `None` stands for the result of the whole."""
    uses: dict[Any, list[Any]] = defaultdict(list)
    for user, atoms in [*((equation, equation.invars) for equation in jaxpr.eqns), (None, jaxpr.outvars)]:
        for atom in atoms:
            if not isinstance(atom, core.Literal):
                uses[atom].append(user)
    return uses


def _turned(product: Any, users: Sequence[Any]) -> Any:
    """The transpose of a product, if rows and columns are exchanged and nothing else is made of it."""
    if len(users) != 1 or users[0] is None or users[0].primitive.name != "transpose":
        return None
    (inner, _), (batch, _) = product.params["dimension_numbers"]
    lhs, out = product.invars[0].aval, product.outvars[0].aval
    first, last = len(batch), lhs.ndim - len(inner)
    exchanged = (*range(first), *range(last, out.ndim), *range(first, last))
    return users[0].outvars[0] if tuple(users[0].params["permutation"]) == exchanged else None


def _rewritten(jaxpr: Any) -> Any:
    """A jaxpr inside of another, or several, with their products rewritten."""
    if isinstance(jaxpr, tuple):
        return tuple(_rewritten(inner) for inner in jaxpr)
    closed = jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())
    new = jax.make_jaxpr(lambda *inputs: _evaluate(closed.jaxpr, closed.consts, *inputs))(*closed.in_avals)
    if jaxpr is closed:
        return new
    return jaxpr if new.consts else new.jaxpr


def _product(lhs: Any, rhs: Any, turned: bool, *, dimension_numbers: Any, **settings: Any) -> Array | None:
    """A product, with its rows and columns exchanged if `turned`; `None` where nothing is to be gained."""
    (lhs_inner, rhs_inner), (lhs_batch, rhs_batch) = dimension_numbers
    left, right = (jnp.asarray(lhs), lhs_batch, lhs_inner), (jnp.asarray(rhs), rhs_batch, rhs_inner)
    (x, x_batch, x_inner), (y, y_batch, y_inner) = (right, left) if turned else (left, right)
    rows, columns = _others(x, x_batch, x_inner), _others(y, y_batch, y_inner)
    ordered = _in_order(x_batch, rows, x_inner) and _in_order(y_batch, y_inner, columns)
    sizes = [prod(x.shape[i] for i in rows), prod(y.shape[i] for i in columns), prod(x.shape[i] for i in x_inner)]
    sharding = settings.pop("out_sharding")  # names the mesh of the operands, even where nothing is divided
    divided = sharding is not None and any(axes is not None for axes in sharding.spec)
    if min(sizes) == 1 or (ordered and not turned) or divided:
        return None
    batches = bool(x_batch)
    numbers = (((1 + batches,), (batches,)), (((0,), (0,)) if batches else ((), ())))
    product = lax.dot_general(
        _operand(x, x_batch, rows, x_inner), _operand(y, y_batch, y_inner, columns), numbers, **settings
    )
    return product.reshape(*(x.shape[i] for i in (*x_batch, *rows)), *(y.shape[i] for i in columns))


def _operand(x: Array, *groups: Sequence[int]) -> Array:
    """The array with one axis for each group of axes that is not empty, copied if they are in another order."""
    moved = x.transpose([i for axes in groups for i in axes])
    merged = moved.reshape([prod(x.shape[i] for i in axes) for axes in groups if axes])
    return merged if _in_order(*groups) else lax.optimization_barrier(merged)  # else XLA would turn it back


def _others(x: Array, *groups: Sequence[int]) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if not any(i in axes for axes in groups))


def _in_order(*groups: Sequence[int]) -> bool:
    axes = [i for axes in groups for i in axes]
    return axes == sorted(axes)
