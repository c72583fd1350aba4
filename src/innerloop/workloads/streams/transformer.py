r"""A small transformer that reads a stream chunk by chunk and keeps a window of keys and values.

A block is causal attention over the window and a perceptron. After the last block stands one more perceptron, `fast`,
whose weights test-time training changes from chunk to chunk.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from innerloop import ops
from innerloop.core.trees import path_name
from innerloop.types import Metrics, Params, PRNGKey, Scalar, StatefulLoss

FAST = "fast"
"""The layer whose weights are trained at test time."""


class Shape(NamedTuple):
    """The shape of the network.

    Attributes:
        vocabulary: number of tokens.
        width: numbers in a representation.
        layers: blocks.
        heads: of the attention.
        window: tokens that a query attends to in a block, itself included.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    window: int


class Chunk(NamedTuple):
    """A part of a stream; a stream is a `PerStep` of them.

    Attributes:
        tokens: `[tokens]`.
        targets: the tokens that follow them, `[tokens]`.
        weight: of each token in the loss of the chunk, `[tokens]`.
        scored: of each token in the scores; over a stream they have the mean 1 per chunk, `[tokens]`.
    """

    tokens: Array
    targets: Array
    weight: Array
    scored: Array


class Window(NamedTuple):
    """What is kept of the stream so far: `[layers, window, heads, size]` of keys and values, and the next position."""

    keys: Array
    values: Array
    position: Array


def init(shape: Shape, key: PRNGKey) -> Params:
    """The parameters, with kernels of variance one over the number of inputs."""

    def kernel(inputs: int, outputs: int, *name: int) -> Array:
        drawn = jax.random.fold_in(jax.random.fold_in(key, name[0]), name[1])
        return jax.random.normal(drawn, (inputs, outputs)) * inputs**-0.5

    width, inner = shape.width, 2 * shape.width
    params: dict[str, Any] = {
        "embedding": jax.random.normal(jax.random.fold_in(key, 0), (shape.vocabulary, width)),
        "head": kernel(width, shape.vocabulary, 1, 0),
        "norm": jnp.ones(width),
        FAST: {"norm": jnp.ones(width), "up": kernel(width, inner, 1, 1), "down": kernel(inner, width, 1, 2)},
    }
    for i in range(shape.layers):
        params[f"block{i}"] = {
            "norm1": jnp.ones(width),
            "qkv": kernel(width, 3 * width, 2 + i, 0),
            "out": kernel(width, width, 2 + i, 1),
            "norm2": jnp.ones(width),
            "up": kernel(width, inner, 2 + i, 2),
            "down": kernel(inner, width, 2 + i, 3),
        }
    return params


def is_fast(path: str, leaf: Any) -> bool:
    """Whether test-time training changes a leaf: the two kernels of the layer `fast`."""
    return path in (f"{FAST}/up", f"{FAST}/down")


def empty(shape: Shape) -> Window:
    """The window before the first chunk."""
    stored = jnp.zeros((shape.layers, shape.window, shape.heads, shape.width // shape.heads))
    return Window(stored, stored, jnp.zeros((), jnp.int32))


def apply(shape: Shape, params: Params, tokens: Array, window: Window) -> tuple[Array, Window]:
    """The logits of the token after each, `[tokens, vocabulary]`, and the window with this chunk in it."""
    length, size = tokens.shape[0], shape.width // shape.heads
    places = window.position + jnp.arange(length)
    known = window.position - shape.window + jnp.arange(shape.window + length)  # positions of the window, then ours
    distance = places[:, None] - known
    mask = (distance >= 0) & (distance < shape.window) & (known >= 0)
    x = params["embedding"][tokens]
    keys, values = [], []
    for i in range(shape.layers):
        block = params[f"block{i}"]
        split = (_normed(block["norm1"], x) @ block["qkv"]).reshape(length, 3, shape.heads, size)
        query, key, value = split[:, 0], split[:, 1], split[:, 2]
        key = jnp.concatenate([window.keys[i], _rotated(key, places)])
        value = jnp.concatenate([window.values[i], value])
        found = ops.dot_product_attention(_rotated(query, places), key, value, mask=mask[None])
        x = x + found.reshape(length, shape.width) @ block["out"]
        x = x + _perceptron(block["norm2"], block, x)
        keys.append(key[length:])
        values.append(value[length:])
    x = x + _perceptron(params[FAST]["norm"], params[FAST], x)
    logits = _normed(params["norm"], x) @ params["head"]
    return logits, Window(jnp.stack(keys), jnp.stack(values), window.position + length)


def loss(shape: Shape, *, by_token: bool = False) -> StatefulLoss:
    """The cross-entropy of the next token in nats, over the chunks of a stream, each before the update on it.

    Args:
        shape: of the network.
        by_token: whether the metrics are of each token, `[tokens]`, instead of what `Chunk.scored` sums up.
    """

    def value(params: Params, chunk: Chunk, key: PRNGKey, window: Window) -> tuple[Scalar, Metrics, Window]:
        logits, window = apply(shape, params, chunk.tokens, window)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), chunk.targets[:, None], axis=-1)[:, 0]
        correct = (jnp.argmax(logits, axis=-1) == chunk.targets).astype(losses.dtype)
        metrics = {"nats": losses, "accuracy": correct}
        if not by_token:
            metrics = {name: metric @ chunk.scored for name, metric in metrics.items()}
        return jnp.mean(losses * chunk.weight), metrics, window

    return StatefulLoss(value, init=lambda params: empty(shape))


def size_of(params: Params) -> tuple[int, int]:
    """The number of parameters, and how many of them are fast."""
    sizes = [(leaf.size, is_fast(path_name(path), leaf)) for path, leaf in jax.tree.leaves_with_path(params)]
    return sum(size for size, _ in sizes), sum(size for size, fast in sizes if fast)


def _normed(scale: Array, x: Array) -> Array:
    return scale * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def _perceptron(scale: Array, kernels: Any, x: Array) -> Array:
    return jax.nn.gelu(_normed(scale, x) @ kernels["up"]) @ kernels["down"]


def _rotated(x: Array, places: Array) -> Array:
    """Rotary embedding: pairs of numbers turned by angles that grow with the position, `[tokens, heads, size]`."""
    half = x.shape[-1] // 2
    angles = places[:, None, None] * 100.0 ** (-jnp.arange(half) / half)
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    first, second = x[..., :half], x[..., half : 2 * half]
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)
