"""Attention in blocks against JAX's own: values, derivatives of two orders, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError, Meta, Mixed, Reverse, Task, meta_loss, ops, rules
from oracles import relative_error

OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"local_window_size": 2},
    "causal window, own scale": {"is_causal": True, "local_window_size": (3, 0), "scale": 0.3},
    "bias and mask": {"bias": (1, 4, 7, 7), "mask": (2, 1, 7, 7)},
    "bias of each key": {"bias": (2, 1, 1, 7)},
}


def arguments(name):
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = (2, 7, 4, 3), (2, 7, 2, 3), (2, 7, 2, 3)
    qkv = tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=False))
    options = dict(OPTIONS[name])
    if "bias" in options:
        options["bias"] = jax.random.normal(keys[3], options["bias"])
    if "mask" in options:
        options["mask"] = jax.random.bernoulli(keys[4], 0.7, options["mask"]) | jnp.eye(7, dtype=bool)
    return qkv, options


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OPTIONS)
def test_it_equals_attention_as_written_to_the_second_derivative(name):
    qkv, options = arguments(name)

    def derivatives(attention, **more):
        value = lambda qkv: jnp.sum(jnp.sin(attention(*qkv, **options, **more)))  # noqa: E731
        gradient = jax.grad(value)
        over_reverse = jax.jvp(gradient, (qkv,), (jax.tree.map(jnp.cos, qkv),))[1]
        reverse_twice = jax.grad(lambda qkv: sum(jnp.sum(g**2) for g in gradient(qkv)))(qkv)
        return attention(*qkv, **options, **more), gradient(qkv), over_reverse, reverse_twice

    def plain(q, k, v, bias=None, mask=True, scale=3**-0.5, is_causal=False, local_window_size=(7, 7)):
        left, right = np.broadcast_to(local_window_size, 2)
        distance = jnp.arange(7) - jnp.arange(7)[:, None]
        allowed = (distance >= -left) & (distance <= (0 if is_causal else right)) & mask
        k, v = (jnp.repeat(leaf, 2, axis=2) for leaf in (k, v))
        logits = jnp.einsum("btnh,bsnh->bnts", q, k) * scale + (0 if bias is None else bias)
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf)), v)

    ours = jax.jit(lambda: derivatives(ops.dot_product_attention, block=3))()
    for found, wanted in zip(ours, jax.jit(lambda: derivatives(plain))(), strict=True):
        assert relative_error(found, wanted) < 1e-10
    library = jax.jit(lambda: jax.nn.dot_product_attention(*qkv, **options))()  # whose softmax is in single precision
    assert relative_error(ours[0], library) < 1e-6


def test_it_takes_arrays_without_a_batch():
    (q, k, v), options = arguments("causal")
    found = ops.dot_product_attention(q[0], k[0], v[0], block=3, **options)
    np.testing.assert_allclose(found, ops.dot_product_attention(q, k, v, **options)[0], atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_meta_gradients_go_through_it():
    def loss(params, batch, key):
        q, k, v = (batch @ params[name] for name in "qkv")
        return jnp.mean((ops.dot_product_attention(q, k, v, is_causal=True, block=3) - batch) ** 2), {}

    keys = jax.random.split(jax.random.key(0), 5)
    params = {name: jax.random.normal(key, (3, 3)) for name, key in zip("qkv", keys, strict=False)}
    task = Task(jax.random.normal(keys[3], (7, 2, 3)), jax.random.normal(keys[4], (7, 2, 3)))

    def gradient(adjoint):
        value = meta_loss(loss, rule=rules.sgd(0.1), steps=2, adjoint=adjoint)
        return jax.jit(jax.grad(lambda params: value(Meta(params, ()), task, keys[0])[0]))(params)

    assert relative_error(gradient(Mixed()), gradient(Reverse())) < 1e-10


@pytest.mark.optimised
def test_memory_of_a_hessian_vector_product_is_linear_in_the_length():
    def temporary(attention, length):
        q = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        value = lambda q, k, v: jnp.sum(attention(q, k, v, is_causal=True) ** 2)  # noqa: E731
        product = lambda q, k, v: jax.jvp(jax.grad(value, (0, 1, 2)), (q, k, v), (q, k, v))[1]  # noqa: E731
        return jax.jit(product).lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

    ours = {length: temporary(ops.dot_product_attention, length) for length in (1024, 2048)}
    assert ours[2048] < 2.5 * ours[1024]
    assert ours[2048] < temporary(jax.nn.dot_product_attention, 2048) / 8


def test_what_cannot_be_is_refused():
    (q, k, v), _ = arguments("plain")
    with pytest.raises(InnerloopError, match="window is 8, longer than the 7 keys"):
        ops.dot_product_attention(q, k, v, local_window_size=8)
    with pytest.raises(InnerloopError, match="blocks of at least 1 query"):
        ops.dot_product_attention(q, k, v, block=0)
