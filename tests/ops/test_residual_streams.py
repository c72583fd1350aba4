"""The sums of a residual stream are computed once on a CPU, and keep their values."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from innerloop.ops import row_major
from innerloop.ops.streams import SMALLEST, always, streams

WIDTH = 64
ROWS = SMALLEST // WIDTH


def residual(depth, weights, x):
    """Normalise, multiply, add: as in a transformer."""
    for i in range(depth):
        y = x - jnp.mean(x, axis=-1, keepdims=True)
        x += jnp.tanh(y * lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + 1e-5) @ weights[i])
    return jnp.sum(x**2)


def example(depth, dtype=jnp.float32, rows=ROWS):
    random = np.random.default_rng(0)
    weights = random.normal(size=(depth, WIDTH, WIDTH)) / WIDTH
    return jnp.asarray(weights, dtype), jnp.asarray(random.normal(size=(rows, WIDTH)), dtype)


def most_operands(function, *arguments) -> int:
    """How many arrays the largest fused operation of a compiled program reads."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return max(found.count("%") for found in re.findall(r" fusion\((.*?)\), kind", text))


@pytest.mark.optimised
def test_what_a_block_reads_does_not_grow_with_the_blocks_before():
    gradients = {depth: jax.grad(partial(residual, depth), argnums=1) for depth in (4, 12)}
    plain, kept = (
        [most_operands(change(gradient), *example(depth)) for depth, gradient in gradients.items()]
        for change in (lambda gradient: gradient, row_major)
    )
    assert plain[1] > 2 * plain[0]
    assert kept[1] <= kept[0] + 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_values_stay(x64, dtype):
    gradient = jax.grad(partial(residual, 3), argnums=(0, 1))
    for kept, plain in zip(row_major(gradient)(*example(3, dtype)), gradient(*example(3, dtype)), strict=True):
        assert kept.dtype == dtype
        scale = float(jnp.max(jnp.abs(plain)))
        np.testing.assert_allclose(kept.astype(float), plain.astype(float), atol=4 * jnp.finfo(dtype).eps * scale)


def test_of_a_loop_too():
    def looped(weights, x):
        return lax.scan(
            lambda x, _: (x - 0.1 * jax.grad(partial(residual, 3), argnums=1)(weights, x), None), x, length=2
        )[0]

    np.testing.assert_allclose(row_major(looped)(*example(3)), looped(*example(3)), rtol=1e-4, atol=1e-4)
    assert "cond" in str(jax.make_jaxpr(row_major(looped))(*example(3)))


def test_what_is_true_is_so_whatever_the_arguments_are(x64):
    for number in (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -3.4e38, 0.1):
        for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
            assert always([3, jnp.int32(3), jnp.full((2, 2), number, dtype), jnp.zeros(0)])
    assert always([jnp.int32(3), jax.random.key(0), jnp.zeros(0), 1.0]) is None


def _read(equation):
    atoms = equation.outvars if isinstance(equation, core.Jaxpr) else equation.invars
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def test_small_sums_and_single_ones_are_left_to_xla():
    def found(function, *arguments):
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
        uses = {out: [] for equation in jaxpr.eqns for out in equation.outvars}
        for user, atom in ((equation, atom) for equation in [*jaxpr.eqns, jaxpr] for atom in _read(equation)):
            uses.setdefault(atom, []).append(user)
        return len(streams(jaxpr, uses))

    forward = partial(residual, 4)
    assert found(forward, *example(4)) == 2  # the first is none of two; the last is used by one alone
    assert found(forward, *example(4, rows=ROWS - 1)) == 0
    assert found(partial(residual, 1), *example(1)) == 0


def test_of_arrays_that_are_divided_among_devices():
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Explicit,))
    weights, x = example(3)
    gradient = jax.grad(partial(residual, 3), argnums=1)
    with jax.set_mesh(mesh):
        divided = jax.device_put(x, NamedSharding(mesh, P("devices", None)))
        weights = jax.device_put(weights, NamedSharding(mesh, P()))
        np.testing.assert_allclose(
            jax.jit(row_major(gradient))(weights, divided), gradient(*example(3)), rtol=1e-4, atol=1e-4
        )


def test_rewritten_functions_can_be_differentiated_and_vectorised():
    weights, x = example(3)
    gradient = jax.grad(partial(residual, 3))
    both = jnp.stack([x, x + 1])
    twice = lambda f: jax.vmap(jax.grad(lambda w, x: jnp.sum(f(w, x) ** 2)), (None, 0))  # noqa: E731
    kept, plain = twice(row_major(gradient))(weights, both), twice(gradient)(weights, both)
    np.testing.assert_allclose(kept, plain, atol=1e-4 * float(jnp.max(jnp.abs(plain))))
