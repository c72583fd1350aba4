"""Matrix products in the form that is fast on a CPU: the same numbers, in every kind of program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from innerloop import Layout
from innerloop.ops import row_major

pytestmark = pytest.mark.usefixtures("x64")


@st.composite
def products(draw):
    """Operands' shapes, the axes that are contracted and batched, and a transposition that may follow."""
    sizes = {name: draw(st.integers(1, 4)) for name in "abmnk"}
    left = draw(st.permutations("abmk"[draw(st.integers(0, 2)) :]))
    batch = [name for name in left if name in "ab"]
    right = draw(st.permutations([*batch, "k", "n"]))
    numbers = (
        ((left.index("k"),), (right.index("k"),)),
        (tuple(map(left.index, batch)), tuple(map(right.index, batch))),
    )
    out = draw(st.one_of(st.none(), st.permutations(range(len(batch) + 2))))
    return [sizes[name] for name in left], [sizes[name] for name in right], numbers, out


@settings(max_examples=60)
@given(products())
def test_every_product_keeps_its_value(case):
    left, right, numbers, out = case
    x, y = (jnp.asarray(np.random.default_rng(0).normal(size=shape)) for shape in (left, right))

    def product(x, y):
        z = lax.dot_general(x, y, numbers)
        return z if out is None else z.transpose(out)

    np.testing.assert_allclose(row_major(product)(x, y), product(x, y), rtol=1e-12, atol=1e-12)
    both = lambda x, y: product(x, y) + product(jnp.sin(x), jnp.cos(y))  # noqa: E731
    np.testing.assert_allclose(row_major(both)(x, y), both(x, y), rtol=1e-12, atol=1e-12)


def layered(w, x):
    """Products inside loops, conditions, recomputation, functions with derivatives of their own, and compiled ones."""

    def step(w, _):
        hidden = jax.checkpoint(lambda w: jnp.tanh(x @ w))(w)
        return w - 0.1 * jax.grad(lambda w: jnp.sum(jax.nn.relu(hidden @ w) ** 2))(w), None

    w, _ = lax.scan(step, w, None, length=3)
    jax.jit(lambda w: ())(w)  # an operation without a result
    w = lax.cond(jnp.sum(w) > 0, lambda w: w @ w.T, lambda w: w.T @ w, w)
    w = lax.while_loop(lambda pair: pair[0] < 2, lambda pair: (pair[0] + 1, 0.1 * jnp.tanh(pair[1].T @ w)), (0, w))[1]
    return jnp.sum(jax.jit(lambda w: (x @ w).T @ x)(w)), {"unused": w, "number": 3}


def test_programs_within_programs_keep_their_values():
    rng = np.random.default_rng(1)
    w, x = jnp.asarray(rng.normal(size=(4, 4))), jnp.asarray(rng.normal(size=(2, 5, 4)))
    plain = jax.vmap(lambda x: layered(w, x))
    ours = jax.jit(row_major(plain))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, plain(x))


def test_gradients_of_weights_are_in_the_fast_form():
    """And their own derivatives are too: in a second derivative the left operand's last axis alone is contracted, with
    the right one's first or last."""
    x, w = jnp.ones((3, 5, 4)), jnp.ones((3, 4, 6))
    loss = lambda w: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w.mT) ** 2)  # noqa: E731
    second = jax.grad(lambda w: jnp.sum(jax.grad(loss)(w) ** 2))
    forms = {
        equation.params["dimension_numbers"]
        for equation in jax.make_jaxpr(row_major(second))(w).eqns
        if equation.primitive.name == "dot_general"
    }
    assert forms == {(((2,), (inner,)), ((0,), (0,))) for inner in (1, 2)}


def copied(function, *arguments):
    """The shapes of what is transposed."""
    equations = jax.make_jaxpr(row_major(function))(*arguments).eqns
    return [each.invars[0].aval.shape for each in equations if each.primitive.name == "transpose"]


def test_what_is_copied_is_the_smaller_part():
    tall, wide = jnp.ones((50, 30)), jnp.ones((50, 2))
    of_weight = lambda x, g: lax.dot_general(x, g, (((0,), (0,)), ((), ())))  # noqa: E731
    assert copied(of_weight, tall, wide) == [(50, 2), (2, 30)]  # (gᵀ x)ᵀ
    assert copied(of_weight, wide, tall) == [(50, 2)]  # xᵀ g
    assert copied(lambda x, w: lax.dot_general(x, w, (((1,), (1,)), ((), ()))), tall, jnp.ones((7, 30))) == []


def test_the_sum_of_two_products_is_one_where_more_comes_out_than_goes_in():
    """Not where one of them is used elsewhere, is subtracted, or has another shape."""
    rng = np.random.default_rng(3)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    g, w = draw(20, 3), draw(15, 3)
    numbers = (((1,), (1,)), ((), ()))

    def both(g, w):
        return lax.dot_general(g, w, numbers) + lax.dot_general(jnp.sin(g), jnp.cos(w), numbers)

    def one_is_used(g, w):
        product = lax.dot_general(g, w, numbers)
        return product + lax.dot_general(jnp.sin(g), jnp.cos(w), numbers), product

    def less_comes_out(g, w):
        return g.T @ g + jnp.sin(g).T @ jnp.cos(g) + 0 * jnp.sum(w)

    def differ(g, w):
        return lax.dot_general(g, w, numbers) + lax.dot_general(g[:, :2], w[:, :2], numbers)

    def nothing_is_contracted(g, w):
        numbers = ((), ()), ((), ())
        return lax.dot_general(g[:, 0], w[:, 0], numbers) + lax.dot_general(g[:, 1], w[:, 1], numbers)

    functions = {both: 1, one_is_used: 2, less_comes_out: 2, differ: 2, nothing_is_contracted: 2}
    for function, count in functions.items():
        program = jax.make_jaxpr(row_major(function))(g, w)
        assert sum(each.primitive.name == "dot_general" for each in program.eqns) == count
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
            jax.jit(row_major(function))(g, w),
            function(g, w),
        )
    tangent = lambda g: jax.jvp(lambda w: jax.grad(lambda g: jnp.sum(jnp.tanh(g @ w.T) ** 2))(g), (w,), (w,))[1]  # noqa: E731
    np.testing.assert_allclose(jax.jit(row_major(tangent))(g), tangent(g), rtol=1e-11)
    third = jax.grad(lambda g: jnp.sum(tangent(g) ** 2))
    np.testing.assert_allclose(jax.jit(row_major(third))(g), third(g), rtol=1e-10)


def test_rewritten_functions_can_be_differentiated_and_vectorised():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5, 4)))
    inner = jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2))
    outer = lambda f: jax.vmap(jax.grad(lambda w, x: jnp.sum(f(w, x) ** 3)), (None, 0))  # noqa: E731
    w = jnp.eye(4)
    np.testing.assert_allclose(outer(row_major(inner))(w, x), outer(inner)(w, x), rtol=1e-12)


def test_products_of_arrays_from_a_mesh_are_rewritten_too():
    """As in reinforcement learning on several devices, whose parameters come from all of them."""
    layout = Layout(shards=2)
    weight = layout.gather(layout.replicate(jnp.ones((3, 2))))
    gradient = jax.grad(lambda weight, x: jnp.sum(jax.lax.map(lambda x: jnp.sum((x @ weight) ** 2), x)))
    text = str(jax.make_jaxpr(row_major(gradient))(weight, jnp.ones((1, 5, 3))))
    assert "optimization_barrier" in text


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize(
    ("strides", "dilation", "padding"),
    [((1, 1), (1, 1), "SAME"), ((2, 1), (1, 1), "VALID"), ((1, 1), (1, 2), ((2, 0), (1, 1))), ((2, 2), (1, 1), "SAME")],
)
def test_convolutions_keep_their_value_and_their_derivatives(monkeypatch, layout, channels, strides, dilation, padding):
    monkeypatch.setattr("innerloop.ops.single_convolutions.CACHED", 2 * 9 * 8 * channels * 8)  # two examples at a time
    rng = np.random.default_rng(0)
    x, direction = (jnp.asarray(rng.normal(size=(6, 9, 8, channels))) for _ in range(2))
    kernel, towards = (jnp.asarray(rng.normal(size=(3, 3, channels, 4))) for _ in range(2))
    order = [layout.index(axis) for axis in "NHWC"]

    def loss(x, kernel):
        x = x.transpose([order.index(axis) for axis in range(4)])
        numbers = (layout, "HWIO", layout)
        y = lax.conv_general_dilated(
            jnp.tanh(x), kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )
        return jnp.sum(jnp.sin(y.transpose(order)) ** 2)

    def found(x, kernel):
        gradient = jax.grad(loss, argnums=(0, 1))
        return loss(x, kernel), *jax.jvp(gradient, (x, kernel), (direction, towards))

    for wrapped in (found, lambda x, kernel: jax.lax.map(lambda pair: found(*pair), (x[None], kernel[None]))):
        results = [jax.tree.leaves(function(x, kernel)) for function in (row_major(wrapped), wrapped)]
        for ours, plain in zip(*results, strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-10)


def test_the_gradient_of_a_kernel_is_products_and_no_convolution():
    x, kernel = jnp.ones((6, 9, 8, 5)), jnp.ones((3, 3, 5, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    loss = lambda kernel: jnp.sum(lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers))  # noqa: E731
    plain, ours = (str(jax.make_jaxpr(of(jax.grad(loss)))(kernel)) for of in (lambda function: function, row_major))
    assert plain.count(" conv_general_dilated[") == 2
    assert (ours.count(" conv_general_dilated["), ours.count(" dot_general[")) == (1, 9)


def test_convolutions_in_groups_stay_as_they_are():
    x, kernels = jnp.ones((3, 2, 6, 6, 2)), jnp.ones((3, 3, 3, 2, 4))
    one = lambda x, kernel: lax.conv_general_dilated(  # noqa: E731
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(row_major(jax.vmap(one))(x, kernels), jax.vmap(one)(x, kernels))
