"""The four-convolution network of the few-shot literature, in both of its forms."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.models.layers import Convolution, conv, conv_init, dense, dense_init, glorot, normal
from innerloop.models.norm import Moments, Normalisation, from_forward
from innerloop.ops import conv_general_dilated, max_pool
from innerloop.types import Params, PRNGKey

SHIFT_ONLY = Normalisation(scale=False)
"""The released code's choice: a meta-learned shift, no scale."""


def convnet(
    image: tuple[int, int, int],
    ways: int,
    *,
    downsample: Literal["stride", "max-pool"] = "stride",
    filters: int = 64,
    blocks: int = 4,
    normalisation: Normalisation | None = SHIFT_ONLY,
    convolution: Convolution = conv_general_dilated,
) -> Model:
    """Blocks of a 3x3 convolution, normalisation and ReLU, each halving the image, and a linear head.

    `"stride"` is the form for Omniglot: convolutions with stride 2, then the mean over space, and a head that starts at
    N(0, 1). `"max-pool"` is the form for miniImageNet: stride 1, then 2x2 max-pooling, all positions flattened, and a
    Glorot head.

    Args:
        image: height, width and channels of an image.
        ways: number of outputs.
        downsample: how each block halves the image.
        filters: number of filters of each convolution.
        blocks: number of blocks.
        normalisation: after each convolution, which then has no bias (it would cancel); `None` for none.
        convolution: ours, fast where kernels differ from task to task, or `jax.lax.conv_general_dilated`.

    Returns:
        A model from `[examples, height, width, channels]` to `[examples, ways]`.

    Raises:
        InnerloopError: if the image is too small to be halved that often, or `downsample` is neither.

    Reference:
        Vinyals et al.: Matching Networks for One Shot Learning, 2016; Finn et al., 2017, section 5.2 and its code.
    """
    if downsample not in ("stride", "max-pool"):
        raise InnerloopError(f"downsample is {downsample!r}; it must be 'stride' or 'max-pool'.")
    height, width, channels = image
    strided = downsample == "stride"
    for _ in range(blocks):
        height, width = ((height + 1) // 2, (width + 1) // 2) if strided else (height // 2, width // 2)
    if height * width == 0:
        raise InnerloopError(
            f"A {image[0]}x{image[1]} image is too small for {blocks} blocks that each halve it; use fewer."
        )
    halved = _unchanged if strided else _halve
    # What only rises with its input can as well come after pooling, on a quarter of the numbers: the same bits.
    rises = normalisation is None or not normalisation.scale
    first, last = (halved, _unchanged) if rises else (_unchanged, halved)
    features = filters if strided else height * width * filters

    def init(key: PRNGKey) -> Params:
        *keys, head_key = jax.random.split(key, blocks + 1)
        params: dict[str, Any] = {}
        for i, block_key in enumerate(keys, 1):
            depth = channels if i == 1 else filters
            params[f"conv{i}"] = conv_init(block_key, 3, depth, filters, bias=normalisation is None)
            if normalisation is not None:
                params[f"norm{i}"] = normalisation.init(filters)
        params["head"] = dense_init(head_key, features, ways, normal(1.0) if strided else glorot)
        return params

    def forward(params: Params, x: Array, key: PRNGKey | None, moments: Moments | None) -> tuple[Array, Moments]:
        used: Moments = {}
        for i in range(1, blocks + 1):
            x = conv(params[f"conv{i}"], x, stride=2 if strided else 1, convolution=convolution)
            if normalisation is None:
                x = first(x)
            else:
                x, seen = normalisation.apply(f"norm{i}", params[f"norm{i}"], x, moments, first)
                used |= seen
            x = last(jax.nn.relu(x))
        x = jnp.mean(x, axis=(1, 2)) if strided else jnp.reshape(x, (x.shape[0], -1))
        return dense(params["head"], x), used

    return from_forward(init, forward, normalisation is not None)


def _unchanged(x: Array) -> Array:
    return x


def _halve(x: Array) -> Array:
    return max_pool(x, 2)
