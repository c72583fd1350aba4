"""Convolution and pooling against JAX's own, in double precision, over shapes drawn at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
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


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
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
