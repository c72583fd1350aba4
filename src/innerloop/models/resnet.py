"""The twelve-layer residual network of the few-shot literature."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.models.layers import Convolution, conv, conv_init, dense, dense_init, glorot
from innerloop.models.norm import Moments, Normalisation, from_forward
from innerloop.ops import conv_general_dilated, max_pool
from innerloop.types import Params, PRNGKey


def resnet12(
    image: tuple[int, int, int],
    ways: int,
    *,
    filters: Sequence[int] = (64, 128, 256, 512),
    normalisation: Normalisation = Normalisation(),
    convolution: Convolution = conv_general_dilated,
) -> Model:
    """Four residual blocks of three 3x3 convolutions with a 1x1 shortcut, leaky ReLU (0.1) and 2x2 max-pooling.

    Args:
        image: height, width and channels of an image.
        ways: number of outputs.
        filters: number of filters of each block.
        normalisation: after each convolution.
        convolution: ours, fast where kernels differ from task to task, or `jax.lax.conv_general_dilated`.

    Returns:
        A model from `[examples, height, width, channels]` to `[examples, ways]`: mean over space, then a linear head.

    Raises:
        InnerloopError: if the image is too small to be halved once a block.

    Reference:
        Oreshkin, Rodriguez, Lacoste: TADAM, 2018, arXiv 1805.10123; Lee et al.: Meta-Learning with Differentiable
        Convex Optimization, 2019, arXiv 1904.03758.
    """
    if min(image[:2]) < 2 ** len(filters):
        raise InnerloopError(
            f"A {image[0]}x{image[1]} image is too small for {len(filters)} blocks that each halve it; use fewer "
            f"filters."
        )
    convolutions = ("conv1", "conv2", "conv3", "shortcut")
    activation = partial(jax.nn.leaky_relu, negative_slope=0.1)

    def init(key: PRNGKey) -> Params:
        *keys, head_key = jax.random.split(key, len(filters) + 1)
        params: dict[str, Any] = {}
        depth = image[2]
        for i, (block_key, width) in enumerate(zip(keys, filters, strict=True), 1):
            block: dict[str, Any] = {}
            for name, conv_key in zip(convolutions, jax.random.split(block_key, 4), strict=True):
                inputs = depth if name in ("conv1", "shortcut") else width
                block[name] = conv_init(conv_key, 1 if name == "shortcut" else 3, inputs, width, bias=False)
                block[f"{name}_norm"] = normalisation.init(width)
            params[f"block{i}"] = block
            depth = width
        params["head"] = dense_init(head_key, depth, ways, glorot)
        return params

    def forward(params: Params, x: Array, key: PRNGKey | None, moments: Moments | None) -> tuple[Array, Moments]:
        used: Moments = {}

        def normalised(block: str, name: str, x: Array) -> Array:
            weights, layer = params[block], f"{block}/{name}"
            y = conv(weights[name], x, convolution=convolution)
            y, seen = normalisation.apply(layer, weights[f"{name}_norm"], y, moments)
            used.update(seen)
            return y

        for i in range(1, len(filters) + 1):
            block = f"block{i}"
            y = activation(normalised(block, "conv1", x))
            y = activation(normalised(block, "conv2", y))
            y = normalised(block, "conv3", y) + normalised(block, "shortcut", x)
            x = max_pool(activation(y), 2)
        return dense(params["head"], jnp.mean(x, axis=(1, 2))), used

    return from_forward(init, forward, normalised=True)
