"""Every kind of network that the tests differentiate through, each small, with a batch for it."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from innerloop import Examples, Task, losses, models, ops
from innerloop.models import Model, Normalisation

WAYS = 3
KINKED = 1e-5


def precision() -> jnp.dtype:
    """Double under the `x64` fixture, else single."""
    return jnp.result_type(float)


class Case(NamedTuple):
    """A network, a task for it, and a step for finite differences: small where the network has kinks."""

    model: Model
    task: Task
    criterion: losses.Criterion
    step: float = 5e-4


def images(side: int, channels: int = 1, seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    labels = jnp.arange(WAYS).repeat(2)

    def batch() -> Examples:
        return Examples(jnp.asarray(rng.normal(size=(2 * WAYS, side, side, channels))), labels)

    return Task(batch(), batch())


def vectors(features: int = 3, outputs: int = 2, seed: int = 0, examples: int = 5) -> Task:
    rng = np.random.default_rng(seed)

    def batch() -> Examples:
        x, y = rng.normal(size=(examples, features)), rng.normal(size=(examples, outputs))
        return Examples(jnp.asarray(x), jnp.asarray(y))

    return Task(batch(), batch())


def sequences(vocabulary: int = 7, length: int = 4, seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)

    def batch() -> Examples:
        return Examples(
            jnp.asarray(rng.integers(vocabulary, size=(5, length))), jnp.asarray(rng.integers(WAYS, size=5))
        )

    return Task(batch(), batch())


def attention(query: Array, key: Array, value: Array, *, mask: Array, **_: object) -> Array:
    """Softmax attention in the precision of its inputs (Flax's own takes the softmax in float32)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), value)


class Transformer(nnx.Module):
    """Embeddings, one block with causal self-attention, and a head on the last token."""

    def __init__(self, vocabulary: int = 7, width: int = 8, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs, param_dtype=precision())
        self.attention = nnx.MultiHeadAttention(
            2, width, decode=False, rngs=rngs, param_dtype=precision(), attention_fn=attention
        )
        self.norm1 = nnx.LayerNorm(width, rngs=rngs, param_dtype=precision())
        self.norm2 = nnx.LayerNorm(width, rngs=rngs, param_dtype=precision())
        self.expand = nnx.Linear(width, 2 * width, rngs=rngs, param_dtype=precision())
        self.contract = nnx.Linear(2 * width, width, rngs=rngs, param_dtype=precision())
        self.head = nnx.Linear(width, WAYS, rngs=rngs, param_dtype=precision())

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(tokens))
        x = x + self.contract(nnx.gelu(self.expand(self.norm2(x))))
        return self.head(x[:, -1])


class Recurrent(nnx.Module):
    """A GRU over a sequence, and a head on its last state."""

    def __init__(self, vocabulary: int = 7, width: int = 6, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs, param_dtype=precision())
        self.rnn = nnx.RNN(nnx.GRUCell(width, width, rngs=rngs, param_dtype=precision()))
        self.head = nnx.Linear(width, WAYS, rngs=rngs, param_dtype=precision())

    def __call__(self, tokens: Array) -> Array:
        return self.head(self.rnn(self.embed(tokens))[:, -1])


class LinenConv(linen.Module):
    """A convolution that is our drop-in, batch normalisation, dropout, and a head."""

    @linen.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        x = linen.Conv(4, (3, 3), strides=2, conv_general_dilated=ops.conv_general_dilated, param_dtype=precision())(x)
        x = linen.BatchNorm(use_running_average=not train, param_dtype=precision())(x)
        x = linen.Dropout(0.2, deterministic=False)(linen.tanh(x))
        return linen.Dense(WAYS, param_dtype=precision())(x.reshape(x.shape[0], -1))


class EquinoxGRU(eqx.Module):
    """A GRU cell scanned over the features of one example, with a float that is no parameter of ours and an integer."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear
    width: int = eqx.field(static=True)

    def __init__(self, key: Array):
        cell_key, head_key = jax.random.split(key)
        self.width = 5
        self.cell = eqx.nn.GRUCell(1, self.width, key=cell_key)
        self.head = eqx.nn.Linear(self.width, 2, key=head_key)

    def __call__(self, x: Array) -> Array:
        state, _ = jax.lax.scan(lambda state, x: (self.cell(x[None], state), None), jnp.zeros(self.width), x)
        return self.head(state)


def mixture(params: dict[str, Array], x: Array) -> Array:
    """A plain function: three Gaussian bumps."""
    distance = (x[:, :1] - params["centre"]) ** 2 / jnp.exp(params["log_width"])
    return jnp.exp(-distance) @ params["height"]


def mixture_init(key: Array) -> dict[str, Array]:
    centre, height = jax.random.split(key)
    return {
        "centre": jax.random.normal(centre, (3,)),
        "log_width": jnp.zeros(3),
        "height": jax.random.normal(height, (3, 2)),
    }


NETWORKS: dict[str, Callable[[], Case]] = {
    "mlp": lambda: Case(models.mlp(3, (8, 8), 2, initializer=models.glorot), vectors(), losses.squared_error),
    "mlp-normalised": lambda: Case(
        models.mlp(3, (8,), 2, activation=jnp.tanh, normalisation=Normalisation(), initializer=models.glorot),
        vectors(),
        losses.squared_error,
    ),
    "convnet-stride": lambda: Case(
        models.convnet((8, 8, 1), WAYS, filters=4, blocks=2), images(8), losses.cross_entropy, KINKED
    ),
    "convnet-max-pool": lambda: Case(
        models.convnet((8, 8, 3), WAYS, downsample="max-pool", filters=4, blocks=2),
        images(8, 3),
        losses.cross_entropy,
        KINKED,
    ),
    "convnet-unnormalised": lambda: Case(
        models.convnet((8, 8, 1), WAYS, filters=4, blocks=2, normalisation=None),
        images(8),
        losses.cross_entropy,
        KINKED,
    ),
    "resnet12": lambda: Case(models.resnet12((8, 8, 1), WAYS, filters=(2, 3)), images(8), losses.cross_entropy, KINKED),
    "nnx-transformer": lambda: Case(
        models.from_nnx(lambda rngs: Transformer(rngs=rngs)), sequences(), losses.cross_entropy
    ),
    "nnx-recurrent": lambda: Case(
        models.from_nnx(lambda rngs: Recurrent(rngs=rngs)), sequences(), losses.cross_entropy
    ),
    "linen-conv": lambda: Case(
        models.from_linen(LinenConv(), jax.ShapeDtypeStruct((1, 8, 8, 1), precision())), images(8), losses.cross_entropy
    ),
    "equinox-mlp": lambda: Case(
        models.from_equinox(lambda key: eqx.nn.MLP(3, 2, 8, 2, activation=jax.nn.softplus, key=key)),
        vectors(),
        losses.squared_error,
    ),
    "equinox-gru": lambda: Case(models.from_equinox(EquinoxGRU), vectors(), losses.squared_error),
    "function": lambda: Case(models.from_functions(mixture_init, mixture), vectors(), losses.squared_error),
}


def some_slow(names: Iterable[str], *slow: str) -> list[Any]:
    """Parameters for a test, of which those named are slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]
