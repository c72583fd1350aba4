r"""A plain decoder-only transformer in two forms, that of GPT-2 and that of Llama."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.models.layers import Weights, normal
from innerloop.ops import dot_product_attention
from innerloop.types import Params, PRNGKey

Attention: TypeAlias = Callable[..., Array]
"""`ops.dot_product_attention`, or another function of the same arguments, such as `jax.nn.dot_product_attention`."""


@dataclass(frozen=True)
class TransformerDescription:
    r"""What a transformer is.

    Attributes:
        vocabulary: number of tokens.
        width: numbers at each position.
        layers: number of blocks.
        heads: of the attention.
        length: the longest sequence.
        kind: `"gpt2"`: layer normalisation, learned positions, a perceptron with GELU, biases. `"llama"`: normalisation
            by the root mean square, rotated positions, a gated perceptron with SiLU, no biases.
        hidden: width of each perceptron; 4 times `width` unless given.
        key_heads: heads of keys and values, each of which serves as many heads of queries; all unless given.
        head_size: numbers of each head; `width / heads` unless given.
        window: how many positions a query attends to, its own and those before it; all unless given.
        tied: whether the output layer is the table of the tokens; or else it is a layer `head` of its own.
        epsilon: added to the variance in normalisation.
        base: the longest wavelength of rotated positions is $2\pi$ times it.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    length: int
    kind: Literal["gpt2", "llama"] = "gpt2"
    hidden: int | None = None
    key_heads: int | None = None
    head_size: int | None = None
    window: int | None = None
    tied: bool = True
    epsilon: float = 1e-5
    base: float = 10_000.0

    def __post_init__(self) -> None:
        numbers = {
            "vocabulary": self.vocabulary,
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "length": self.length,
            "window": 1 if self.window is None else self.window,
        }
        for name, number in numbers.items():
            if number < 1:
                raise InnerloopError(f"A transformer with {name}={number} cannot be; use 1 or more.")
        if self.kind not in ("gpt2", "llama"):
            raise InnerloopError(f"kind is {self.kind!r}; it must be 'gpt2' or 'llama'.")
        if self.head_size is None and self.width % self.heads:
            raise InnerloopError(f"A width of {self.width} cannot be shared by {self.heads} heads; use a multiple.")
        if self.heads % (self.key_heads or self.heads):
            raise InnerloopError(f"{self.heads} heads cannot share {self.key_heads} heads of keys; use a divisor.")
        if self.kind == "llama" and self.of_head % 2:
            raise InnerloopError(f"Heads of {self.of_head} numbers cannot be rotated by position; use an even size.")

    @property
    def of_head(self) -> int:
        """Numbers of each head."""
        return self.head_size or self.width // self.heads


def transformer(
    description: TransformerDescription,
    *,
    attention: Attention = dot_product_attention,
    recompute: bool = False,
) -> Model:
    r"""A decoder-only transformer.

    With normalisation $\nu$, each block is

    $$ x \leftarrow x + \text{attention}(\nu x), \qquad x \leftarrow x + \text{perceptron}(\nu x) . $$

    Every block has the same shapes, so blocks are one scan over parameters with a leading axis `[layers]`, such as
    `blocks/query/kernel`, `[layers, width, heads * head size]`; a program is as long as one block. The other matrices
    of a block are `key`, `value`, `output`, `up`, `down` and in the form of Llama `gate`.

    Args:
        description: what it is.
        attention: ours, whose memory is linear in the length in every order of derivative, or another function of the
            same arguments.
        recompute: whether a derivative keeps the input of each block alone and computes what is inside anew.

    Returns:
        A model from tokens, integers `[examples, length]`, to logits of the next token, `[examples, length,
        vocabulary]`. Logits at a position depend on the tokens up to there. With `losses.cross_entropy` it is a
        language model on `Examples(x=tokens[:, :-1], y=tokens[:, 1:])`.

    Raises:
        InnerloopError: when applied, if a sequence is longer than `description.length`.

    Reference:
        Radford et al.: Language Models are Unsupervised Multitask Learners, 2019; Touvron et al.: LLaMA, 2023,
        arXiv 2302.13971.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import models
        >>> tiny = models.TransformerDescription(vocabulary=7, width=8, layers=2, heads=2, length=16)
        >>> model = models.transformer(tiny)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.zeros((3, 5), int)).shape, params["blocks"]["query"]["kernel"].shape
        ((3, 5, 7), (2, 8, 8))
    """
    plain = description.kind == "gpt2"

    def init(key: PRNGKey) -> Params:
        keys = jax.random.split(key, 4)
        width = description.width
        params: dict[str, Any] = {
            "tokens": {"embedding": normal(0.02)(keys[0], (description.vocabulary, width))},
            "blocks": jax.vmap(lambda key: _block_init(description, key))(
                jax.random.split(keys[1], description.layers)
            ),
            "norm": _norm_init(width, plain),
        }
        if plain:
            params["positions"] = {"embedding": normal(0.02)(keys[2], (description.length, width))}
        if not description.tied:
            params["head"] = {"kernel": normal(0.02)(keys[3], (width, description.vocabulary))}
        return params

    def apply(params: Params, x: Array, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        length = x.shape[-1]
        if length > description.length:
            raise InnerloopError(
                f"The transformer takes sequences of up to {description.length} tokens, not {length}; shorten them, or "
                "describe it with a greater length."
            )
        table = params["tokens"]["embedding"]
        hidden = table[x]
        if plain:
            hidden += params["positions"]["embedding"][:length]

        def block(hidden: Array, weights: Any) -> tuple[Array, None]:
            return _block(description, attention, weights, hidden), None

        inner = jax.checkpoint(block, prevent_cse=False) if recompute else block
        hidden, _ = lax.scan(inner, hidden, params["blocks"])
        hidden = _norm(params["norm"], hidden, description.epsilon)
        return hidden @ (table.T if description.tied else params["head"]["kernel"])

    return Model(init, apply, products=True)


def _sizes(description: TransformerDescription) -> dict[str, tuple[int, int]]:
    """The matrices of a block, `(inputs, outputs)`."""
    width, hidden = description.width, description.hidden or 4 * description.width
    queries = description.heads * description.of_head
    keys = (description.key_heads or description.heads) * description.of_head
    sizes = {"query": (width, queries), "key": (width, keys), "value": (width, keys), "output": (queries, width)}
    gate = {} if description.kind == "gpt2" else {"gate": (width, hidden)}
    return sizes | gate | {"up": (width, hidden), "down": (hidden, width)}


def _block_init(description: TransformerDescription, key: PRNGKey) -> Params:
    """Those of GPT-2: what is added to the residual stream is the smaller, the more blocks there are."""
    plain = description.kind == "gpt2"
    sizes = _sizes(description)
    params: dict[str, Any] = {name: _norm_init(description.width, plain) for name in ("norm1", "norm2")}
    for (name, size), one in zip(sizes.items(), jax.random.split(key, len(sizes)), strict=True):
        deviation = 0.02 / (2 * description.layers) ** 0.5 if name in ("output", "down") else 0.02
        params[name] = {"kernel": normal(deviation)(one, size)} | ({"bias": jnp.zeros(size[1])} if plain else {})
    return params


def _block(description: TransformerDescription, attention: Attention, weights: Any, x: Array) -> Array:
    """Attention and a perceptron, each beside the residual stream."""
    y = _norm(weights["norm1"], x, description.epsilon)
    q, k, v = (
        product.reshape(*product.shape[:-1], -1, description.of_head)
        for product in (_linear(weights[name], y) for name in ("query", "key", "value"))
    )
    if description.kind == "llama":
        q, k = _rotated(q, description.base), _rotated(k, description.base)
    window = None if description.window is None else (min(description.window, x.shape[1]) - 1, 0)
    y = attention(q, k, v, is_causal=True, local_window_size=window)
    x += _linear(weights["output"], y.reshape(*y.shape[:-2], -1))
    y = _norm(weights["norm2"], x, description.epsilon)
    up = _linear(weights["up"], y)
    if description.kind == "llama":
        return x + _linear(weights["down"], jax.nn.silu(_linear(weights["gate"], y)) * up)
    return x + _linear(weights["down"], jax.nn.gelu(up, approximate=True))


def _linear(weights: Any, x: Array) -> Array:
    product = x @ weights["kernel"]
    return product + weights["bias"] if "bias" in weights else product


def _norm_init(width: int, shifted: bool) -> Weights:
    return {"scale": jnp.ones(width)} | ({"shift": jnp.zeros(width)} if shifted else {})


def _norm(weights: Weights, x: Array, epsilon: float) -> Array:
    """Layer normalisation, or by the root mean square where there is no shift; in at least single precision."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if "shift" in weights:
        wide -= jnp.mean(wide, axis=-1, keepdims=True)
    wide *= lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + epsilon)
    scaled = wide.astype(x.dtype) * weights["scale"]
    return scaled + weights["shift"] if "shift" in weights else scaled


def _rotated(x: Array, base: float) -> Array:
    """Pairs of numbers, one of each half of a head, turned by an angle in proportion to the position."""
    half = x.shape[-1] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    angles = jnp.arange(x.shape[1], dtype=wide)[:, None] * base ** (-jnp.arange(half, dtype=wide) / half)
    cosine, sine = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)
