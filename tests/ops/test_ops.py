"""Convolution and pooling against JAX's own, in double precision, over shapes drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from innerloop import ops

pytestmark = pytest.mark.usefixtures("x64")


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 2))
    groups = draw(st.integers(1, 2))
    pair = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    window, space = pair(1, 3), pair(5, 8)
    channels, filters = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.just([(draw(st.integers(0, 2)), 1)] * rank)))
    layout = draw(st.sampled_from([("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("NHWC", "OIHW", "NCHW")]))
    if rank == 1:
        layout = tuple(each.replace("H", "") for each in layout)
    sizes = dict(zip("HW"[2 - rank :], space, strict=True)) | {"N": draw(st.integers(1, 3)), "C": channels}
    kernel = dict(zip("HW"[2 - rank :], window, strict=True)) | {"I": channels // groups, "O": filters}
    explicit = not isinstance(padding, str)  # lax refuses to pad a dilated input by name
    return {
        "lhs": tuple(sizes[axis] for axis in layout[0]),
        "rhs": tuple(kernel[axis] for axis in layout[1]),
        "window_strides": pair(1, 3),
        "padding": padding,
        "lhs_dilation": draw(st.one_of(st.none(), st.just(pair(1, 2)))) if explicit else None,
        "rhs_dilation": draw(st.one_of(st.none(), st.just(pair(1, 2)))),
        "dimension_numbers": layout,
        "feature_group_count": groups,
    }


@settings(max_examples=25)
@given(convolutions())
def test_convolution_equals_that_of_lax(case):
    lhs, rhs = (jnp.asarray(np.random.default_rng(0).normal(size=case.pop(name))) for name in ("lhs", "rhs"))

    @jax.jit
    def value_and_gradients(lhs, rhs):
        def both(conv):
            value, vjp = jax.vjp(lambda lhs, rhs: conv(lhs, rhs, **case), lhs, rhs)
            return value, *vjp(value**2)

        return both(ops.conv_general_dilated), both(lax.conv_general_dilated)

    ours, theirs = value_and_gradients(lhs, rhs)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_hessian_vector_product_with_a_kernel_for_each_task():
    rng = np.random.default_rng(0)
    x, kernels, v = (jnp.asarray(rng.normal(size=s)) for s in [(3, 2, 6, 6, 2), (3, 3, 3, 2, 4), (3, 3, 3, 2, 4)])

    def product(conv):
        loss = lambda kernel, x: jnp.sum(jnp.tanh(conv(x, kernel)) ** 2)  # noqa: E731
        one = lambda kernel, v, x: jax.jvp(lambda kernel: jax.grad(loss)(kernel, x), (kernel,), (v,))[1]  # noqa: E731
        return jax.vmap(one)(kernels, v, x)

    plain = lambda x, k: lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
    np.testing.assert_allclose(product(lambda x, k: ops.conv2d(x, k, 2)), product(plain), rtol=1e-9, atol=1e-10)


def test_batch_groups_are_left_to_lax():
    lhs, rhs = jnp.ones((4, 5, 5, 1)), jnp.ones((2, 2, 1, 4))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "batch_group_count": 2}
    ours = ops.conv_general_dilated(lhs, rhs, (1, 1), "SAME", **options)
    np.testing.assert_allclose(ours, lax.conv_general_dilated(lhs, rhs, (1, 1), "SAME", **options))


@pytest.mark.parametrize("side", [6, 7])
def test_max_pool_equals_reduce_window(side):
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    window = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
    np.testing.assert_array_equal(ops.max_pool(x, 2), window(x))
    gradients = (
        jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))(x) for pool in (lambda x: ops.max_pool(x, 2), window)
    )
    np.testing.assert_allclose(*gradients)


def test_the_first_of_tied_values_has_the_gradient():
    """Wherever in the window they are."""
    windows = jnp.asarray([[3.0, 1, 3, 3], [2, 2, 2, 2], [1, 5, 5, 0], [0, 0, 1, 7], [4, 6, 4, 6]])
    gradient = jax.grad(lambda x: jnp.sum(ops.max_pool(x.reshape(5, 2, 2, 1), 2)))(windows)
    np.testing.assert_array_equal(gradient, np.eye(4)[np.argmax(windows, axis=1)])


@pytest.mark.parametrize(
    "size",
    [pytest.param(size, marks=marks) for size in (2, 3) for marks in ((), pytest.mark.optimised)],
    ids=["2, quickly compiled", "2, optimised", "3, quickly compiled", "3, optimised"],
)
def test_derivatives_of_max_pool_in_every_order(size):
    """Also of what the same compiled program computes, perhaps twice and rounded in two ways."""
    rng = np.random.default_rng(size)
    x = jnp.asarray(rng.normal(size=(2, 2 * size, 2 * size, 3)))
    direction = jnp.asarray(rng.normal(size=x.shape))

    def loss(t):
        y = x + t * direction
        y = jax.nn.leaky_relu((y - y.mean((0, 1, 2))) * jax.lax.rsqrt(y.var((0, 1, 2)) + 1e-3), 0.1)
        return jnp.sum(jnp.sin(ops.max_pool(jnp.sin(3 * y) * y, size)))

    derivative, step = loss, 1e-5
    for order in range(1, 4):
        before, derivative = jax.jit(derivative), jax.grad(derivative)
        expected = (before(step) - before(-step)) / (2 * step)
        np.testing.assert_allclose(jax.jit(derivative)(0.0), expected, rtol=1e-6, err_msg=f"order {order}")
        np.testing.assert_allclose(jax.jit(jax.jacfwd(before))(0.0), expected, rtol=1e-6, err_msg=f"order {order}")
