"""Matrix products in the two forms that XLA's CPU kernels are fast for.

These take `[..., rows, inner]` and either `[..., inner, columns]` or `[..., columns, inner]`, with the numbers in
memory in this order. The gradient of a weight, $x^\\top g$, is of neither form, nor is half of what its derivative
consists of; XLA then falls back on kernels that take 1.5 to 3 times as long. A copy in the right order costs far less:
of the operand on the left, or, where that is smaller, of the one on the right and of the result, $(g^\\top x)^\\top$.

And the sum of two products, such as $\\dot g W^\\top + g \\dot W^\\top$ in a Hessian-vector product, is one product
$[\\dot g\\ g]\\,[W\\ \\dot W]^\\top$ where the operands are smaller than what comes out.
The sums of a residual stream are kept, see `innerloop.ops.streams`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core

from innerloop.ops.single_convolutions import single_convolution
from innerloop.ops.streams import always, computed_once, streams

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
    Products that have this form already, and those with a vector, stay as they are. What a residual network adds up is
    computed once instead of anew in each of its blocks. Values change by rounding at most.

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
    uses = _uses(jaxpr)
    sums = _sums(jaxpr, uses)
    once = streams(jaxpr, uses)
    true = always(arguments) if once else None
    # What need not be computed: results of transpositions that a product has taken in, and products that a sum has.
    absorbed = {product.outvars[0] for pair in sums.values() for product in pair}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        if any(out in absorbed for out in equation.outvars):
            continue
        if any(out in sums for out in equation.outvars):
            (out,) = equation.outvars
            values[out] = _sum(*sums[out], read)
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
            if name == "conv_general_dilated":
                shape = equation.outvars[0].aval.shape
                found = single_convolution(operands[0], operands[1], shape, equation.params)
                if found is not None:
                    values[equation.outvars[0]] = found
                    continue
            parameters = dict(equation.params)
            for inner in INNER.get(name, ()):
                parameters[inner] = _rewritten(parameters[inner])
            results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(parameters))
        results = results if equation.primitive.multiple_results else [results]
        if true is not None and once.intersection(equation.outvars):
            results = [computed_once(results[0], true)]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _sums(jaxpr: Any, uses: dict[Any, list[Any]]) -> dict[Any, tuple[Any, Any]]:
    """The sums of two products of the same form that are better computed as one, with these."""
    products = {each.outvars[0]: each for each in jaxpr.eqns if each.primitive.name == "dot_general"}
    found: dict[Any, tuple[Any, Any]] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name not in ("add_any", "add"):
            continue
        pair: list[Any] = [products.get(atom) for atom in equation.invars if not isinstance(atom, core.Literal)]
        if len(pair) < 2 or pair[0] is pair[1] or any(one is None or len(uses[one.outvars[0]]) > 1 for one in pair):
            continue
        first, second = pair
        shapes = [[(atom.aval.shape, atom.aval.dtype) for atom in one.invars] for one in (first, second)]
        size = sum(prod(atom.aval.shape) for atom in first.invars)
        contracts = bool(first.params["dimension_numbers"][0][0])
        alike = contracts and shapes[0] == shapes[1] and first.params == second.params
        if alike and size < first.outvars[0].aval.size:
            found[equation.outvars[0]] = (first, second)
    return found


def _sum(first: Any, second: Any, read: Callable[[Any], Any]) -> Array:
    """Two products as one, their operands joined along an axis that is contracted."""
    inner, _ = first.params["dimension_numbers"]
    left, right = [
        lax.concatenate([read(one), read(other)], axes[0])
        for one, other, axes in zip(first.invars, second.invars, inner, strict=True)
    ]
    product = _product(left, right, False, **first.params)
    return lax.dot_general(left, right, **first.params) if product is None else product


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
    sides = [_Side(jnp.asarray(lhs), lhs_batch, lhs_inner), _Side(jnp.asarray(rhs), rhs_batch, rhs_inner)]
    left, right = reversed(sides) if turned else sides
    batch, batches = [left.array.shape[i] for i in left.batch], bool(left.batch)
    small = min(left.rows, right.rows, prod(left.array.shape[i] for i in left.inner)) == 1
    as_it_is = not turned and not left.copied_on_the_left and not right.copied_on_the_right
    sharding = settings.pop("out_sharding")  # names the mesh of the operands, even where nothing is divided
    divided = sharding is not None and any(axes is not None for axes in sharding.spec)
    if small or as_it_is or divided:
        return None
    exchanged = right.copied_on_the_left + left.copied_on_the_right + prod(batch) * left.rows * right.rows
    if exchanged < left.copied_on_the_left + right.copied_on_the_right:
        product = lax.optimization_barrier(_multiplied(right, left, batches, settings)).swapaxes(-1, -2)
    else:
        product = _multiplied(left, right, batches, settings)
    return product.reshape(*batch, *left.others, *right.others)


class _Side(NamedTuple):
    """An operand of a product, and which of its axes are those of the batch, and the ones that are contracted."""

    array: Array
    batch: Sequence[int]
    inner: Sequence[int]

    @property
    def outer(self) -> tuple[int, ...]:
        return _others(self.array, self.batch, self.inner)

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(self.array.shape[i] for i in self.outer)

    @property
    def rows(self) -> int:
        return prod(self.others)

    @property
    def copied_on_the_left(self) -> int:
        """The numbers to copy if it is to stand on the left."""
        return 0 if _in_order(self.batch, self.outer, self.inner) else self.array.size

    @property
    def transposed(self) -> bool:
        """Whether it can stand on the right as `[columns, inner]`."""
        return _in_order(self.batch, self.outer, self.inner)

    @property
    def copied_on_the_right(self) -> int:
        """The numbers to copy if it is to stand on the right."""
        return 0 if self.transposed or _in_order(self.batch, self.inner, self.outer) else self.array.size


def _multiplied(left: _Side, right: _Side, batches: bool, settings: dict[str, Any]) -> Array:
    """`[batch, rows, columns]`, the batch as one axis, or none."""
    x = _operand(left.array, left.batch, left.outer, left.inner)
    groups = (right.outer, right.inner) if right.transposed else (right.inner, right.outer)
    y = _operand(right.array, right.batch, *groups)
    inner = (1 + batches,), (batches + right.transposed,)
    return lax.dot_general(x, y, (inner, ((0,), (0,)) if batches else ((), ())), **settings)


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
