"""The meta-step in JAX by hand: `jit`, `vmap` and `grad` of plain functions, in either order."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.tree_util import keystr

from benchmarks.peers.implementations import MetaStep
from benchmarks.peers.problems import (
    ADAM_SHARE,
    BATCH_EPSILON,
    LAYER_EPSILON,
    OUTER_RATE,
    Arrays,
    Batch,
    Case,
    Convnet,
    Mlp,
    Problem,
    Transformer,
)

Params = dict[str, Array]


def dense(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def mlp(network: Mlp, params: Params, x: Array) -> Array:
    for i in range(1, len(network.widths) - 1):
        x = jax.nn.relu(dense(params, f"dense{i}", x))
    return dense(params, "head", x)


def convnet(network: Convnet, params: Params, x: Array) -> Array:
    strides = (1, 1) if network.pooled else (2, 2)
    for i in range(1, network.blocks + 1):
        x = lax.conv_general_dilated(
            x, params[f"conv{i}/kernel"], strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = (x - jnp.mean(x, (0, 1, 2))) * lax.rsqrt(jnp.var(x, (0, 1, 2)) + BATCH_EPSILON)
        x = jax.nn.relu(x + params[f"norm{i}/shift"])
        if network.pooled:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1) if network.pooled else jnp.mean(x, (1, 2))
    return dense(params, "head", x)


def transformer(network: Transformer, params: Params, tokens: Array) -> Array:
    def norm(name: str, x: Array) -> Array:
        x = (x - jnp.mean(x, -1, keepdims=True)) * lax.rsqrt(jnp.var(x, -1, keepdims=True) + LAYER_EPSILON)
        return x * params[f"{name}/scale"] + params[f"{name}/shift"]

    seen = jnp.tri(network.sequence, dtype=bool)
    x = params["embed/token/table"][tokens] + params["embed/position/table"]
    for i in range(1, network.layers + 1):
        qkv = dense(params, f"block{i}/qkv", norm(f"block{i}/norm1", x))
        q, k, v = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, network.heads, -1), 2, 0)
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        x += dense(params, f"block{i}/out", jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))
        hidden = jax.nn.gelu(dense(params, f"block{i}/up", norm(f"block{i}/norm2", x)), approximate=True)
        x += dense(params, f"block{i}/down", hidden)
    return dense(params, "head", norm("norm", x))


NETWORKS: dict[type, Callable[..., Array]] = {Mlp: mlp, Convnet: convnet, Transformer: transformer}


def mean_of_gradients(problem: Problem) -> MetaStep:
    """`vmap` of the gradient of one task's loss."""
    gradient = jax.vmap(jax.grad(adapted_loss(problem.case)), (None, 0, 0))

    def meta_gradient(params: Params, support: Batch, query: Batch) -> Params:
        return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), gradient(params, support, query))

    return meta_step(meta_gradient, problem.params, (problem.support, problem.query))


def gradient_of_mean(problem: Problem) -> MetaStep:
    """The gradient of the mean over a `vmap` of one task's loss."""
    losses = jax.vmap(adapted_loss(problem.case), (None, 0, 0))

    def mean_loss(params: Params, support: Batch, query: Batch) -> Array:
        return jnp.mean(losses(params, support, query))

    return meta_step(jax.grad(mean_loss), problem.params, (problem.support, problem.query))


def adapted_loss(case: Case) -> Callable[[Params, Batch, Batch], Array]:
    """The query loss of a task after adaptation on its support set."""
    apply = partial(NETWORKS[type(case.network)], case.network)

    def loss(params: Params, batch: Batch) -> Array:
        outputs = apply(params, batch.x)
        if jnp.issubdtype(batch.y.dtype, jnp.floating):
            return jnp.mean((outputs - batch.y) ** 2)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.y))

    def adapted(params: Params, support: Batch, query: Batch) -> Array:
        for _ in range(case.steps):
            gradients = jax.grad(loss)(params, support)
            params = jax.tree.map(lambda leaf, gradient: leaf - case.rate * gradient, params, gradients)
        return loss(params, query)

    return adapted


def meta_step(
    meta_gradient: Callable[..., Any],
    params: Any,
    data: tuple[Any, ...],
    put: Callable[[Any], Any] = jax.device_put,
    at_once: int = 1,
) -> MetaStep:
    """The compiled meta-step around `meta_gradient(params, *data)`, whose arguments `put` brings to the devices.

    Args:
        meta_gradient: of the tasks' mean loss.
        params: where it starts.
        data: what else it needs.
        put: brings arrays to the devices.
        at_once: meta-steps in one dispatch, after the first.
    """
    optimizer = optax.adam(OUTER_RATE)

    def step(params: Any, state: Any, data: tuple[Any, ...]) -> tuple[Any, Any]:
        updates, state = optimizer.update(meta_gradient(params, *data), state)
        return optax.apply_updates(params, updates), state

    def steps(params: Any, state: Any, data: tuple[Any, ...], count: Array) -> tuple[Any, Any]:
        return lax.fori_loop(0, count, lambda _, carry: step(*carry, data), (params, state))

    compiled = jax.jit(step) if at_once == 1 else jax.jit(steps)
    params, data = put((params, data))
    carry, counts = (params, put(optimizer.init(params))), itertools.chain([1], itertools.repeat(at_once))

    def run() -> None:
        nonlocal carry
        count = () if at_once == 1 else (np.int32(next(counts)),)
        carry = jax.block_until_ready(compiled(*carry, data, *count))

    def gradient() -> Arrays:
        moment = jax.tree.leaves_with_path(optax.tree.get(carry[1], "mu"))
        return {keystr(path, simple=True, separator="/"): np.asarray(leaf) / ADAM_SHARE for path, leaf in moment}

    return MetaStep(run, gradient, at_once)
