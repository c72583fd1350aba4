"""Neural fields: a network of the coordinates of a point, for images, volumes and their projections."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.models.layers import Initializer, dense, dense_init, glorot
from innerloop.types import Params, PRNGKey

SEED = 0
"""Fixes the Fourier features, which are part of the network and not learned."""


def neural_field(
    hidden: Sequence[int],
    *,
    frequencies: int = 256,
    bandwidth: float = 30.0,
    dimensions: int = 2,
    context: int = 0,
    initializer: Initializer = glorot,
) -> Model:
    r"""A field $f(p) \in (0, 1)$ of Fourier features, and its mean over the points of an example.

    $$ y = \frac1S \sum_{s=1}^{S} f(p_s), \qquad f(p) = \sigma(\operatorname{mlp}(\sin Bp, \cos Bp)), \qquad
       B_{ij} \sim \mathcal N(0, \text{bandwidth}^2) $$

    An example is the points of a ray, whose mean times the ray's length is its line integral, or a single point.

    Args:
        hidden: width of each hidden layer.
        frequencies: rows of $B$.
        bandwidth: standard deviation of the angular frequencies, in radians for each unit of length.
        dimensions: of a point.
        context: numbers that `models.with_context` puts behind the points; each hidden layer adds a learned linear map
            of them before its activation.
        initializer: of the kernels; biases start at 0.

    Returns:
        A model from `[examples, points, dimensions]` to `[examples, 1]`.

    Raises:
        InnerloopError: if there are no frequencies or points, or another number of dimensions.

    Reference:
        Tancik et al.: Fourier Features Let Networks Learn High Frequency Functions, 2020, arXiv 2006.10739; Dupont et
        al.: From Data to Functa, 2022, arXiv 2201.12204 (a context in each layer).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import models
        >>> field = models.neural_field((16,), frequencies=8)
        >>> params = field.init(jax.random.key(0))
        >>> field.apply(params, jnp.zeros((10, 32, 2))).shape  # ten rays of 32 points
        (10, 1)
    """
    if frequencies < 1:
        raise InnerloopError(f"A field of {frequencies} frequencies sees no point; use 1 or more.")
    matrix = bandwidth * np.random.default_rng(SEED).standard_normal((dimensions, frequencies))
    widths = (2 * frequencies, *hidden, 1)
    names = [f"dense{i}" for i in range(1, len(hidden) + 1)] + ["head"]

    def init(key: PRNGKey) -> Params:
        layer_key, context_key = jax.random.split(key)
        params: dict[str, Any] = {
            name: dense_init(key, *shape, initializer)
            for name, key, shape in zip(names, jax.random.split(layer_key, len(names)), pairwise(widths), strict=True)
        }
        if context:
            for i, (width, key) in enumerate(zip(hidden, jax.random.split(context_key, len(hidden)), strict=True), 1):
                params[f"shift{i}"] = {"kernel": initializer(key, (context, width))}
        return params

    def apply(params: Params, x: Array, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        rows = x.reshape(x.shape[0], -1)
        coordinates = rows.shape[1] - context
        if coordinates < dimensions or coordinates % dimensions or (not context and x.shape[-1] != dimensions):
            raise InnerloopError(
                f"A field takes points of {dimensions} coordinates, [examples, points, {dimensions}]; these inputs are "
                f"{list(x.shape)}."
            )
        points = rows[:, :coordinates].reshape(x.shape[0], -1, dimensions)
        angles = points @ jnp.asarray(matrix, points.dtype)
        y = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        for i in range(1, len(hidden) + 1):
            y = dense(params[f"dense{i}"], y)
            if context:
                y = y + (rows[:, coordinates:] @ params[f"shift{i}"]["kernel"])[:, None]
            y = jax.nn.relu(y)
        return jnp.mean(jax.nn.sigmoid(dense(params["head"], y)), axis=1)

    return Model(init, apply)
