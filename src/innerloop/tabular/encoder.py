"""The encoder, which all tasks share: rows of numbers, or images, made into embeddings of mean 0 and length about 1."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from innerloop.models.layers import conv, conv_init, dense
from innerloop.ops import max_pool
from innerloop.tabular.design import Design
from innerloop.tabular.features import Inputs
from innerloop.tasks.images import as_numbers
from innerloop.types import Params, PRNGKey


def init(design: Design, sizes: tuple[int, int], key: PRNGKey) -> Params:
    """The encoder's parameters, before training.

    Args:
        design: what the learner is.
        sizes: counts and numbers that it reads, `Preparation.sizes`; of images, it reads the pixels.
        key: randomness.
    """
    norm = lambda width: {"scale": jnp.ones(width), "shift": jnp.zeros(width)}  # noqa: E731
    weights, inputs = {}, design.image[2] if design.image is not None else sum(sizes)
    keys = jax.random.split(key, len(design.widths))
    for i, (width, layer_key) in enumerate(zip(design.widths, keys, strict=True), start=1):
        if design.image is not None:
            weights[f"conv{i}"] = conv_init(layer_key, 3, inputs, width, bias=False)
        else:
            kernel = jax.random.normal(layer_key, (inputs, width)) * np.sqrt(2 / max(inputs, 1))
            weights[f"dense{i}"] = {"kernel": kernel, "bias": jnp.zeros(width)}
        weights[f"norm{i}"] = norm(width)
        inputs = width
    return weights | {"norm": norm(inputs)} if design.image is not None else weights


def encode(design: Design, weights: Params, x: Inputs, key: PRNGKey | None = None) -> Array:
    """The shared embedding of rows, of mean 0 and length about 1.

    Args:
        design: what the learner is.
        weights: the encoder's parameters.
        x: encoded rows.
        key: randomness of dropout; `None` drops nothing.

    Returns:
        `[rows, widths[-1]]`.
    """
    keys = [None] * (len(design.widths) + 1) if key is None else list(jax.random.split(key, len(design.widths) + 1))
    if design.image is not None:
        h = as_numbers(jnp.asarray(x.counts).reshape(-1, *design.image))
        for i in range(1, len(design.widths) + 1):
            h = conv(weights[f"conv{i}"], h)
            h = max_pool(jax.nn.relu(_normalised(h, weights[f"norm{i}"], axes=(1, 2, 3))), 2)
        h = jnp.mean(h, axis=(1, 2))
        return _normalised(h, weights["norm"]) / np.sqrt(design.widths[-1])
    h = jnp.concatenate([jnp.log1p(x.counts.astype(jnp.float32)), x.numbers.astype(jnp.float32)], axis=-1)
    h = _dropped(keys[0], h, design.dropout_inputs)
    for i in range(1, len(design.widths) + 1):
        h = _normalised(dense(weights[f"dense{i}"], h), weights[f"norm{i}"])
        if i < len(design.widths):
            h = _dropped(keys[i], jax.nn.relu(h), design.dropout)
    return h / np.sqrt(design.widths[-1])


def _normalised(h: Array, weights: Params, axes: tuple[int, ...] = (-1,)) -> Array:
    """Layer normalisation: each row by its own mean and variance over `axes`, scale and shift for each channel."""
    h = h - jnp.mean(h, axis=axes, keepdims=True)
    h = h * lax.rsqrt(jnp.mean(h**2, axis=axes, keepdims=True) + 1e-5)
    return h * weights["scale"] + weights["shift"]


def _dropped(key: PRNGKey | None, x: Array, share: float) -> Array:
    if key is None or not share:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - share, x.shape), x / (1 - share), 0)
