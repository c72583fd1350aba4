"""The transformer against the same forward pass in plain NumPy, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Examples, InnerloopError, losses, models
from oracles import relative_error

KEY = jax.random.key(0)
GPT2 = models.TransformerDescription(vocabulary=11, width=8, layers=2, heads=2, length=9)
LLAMA = models.TransformerDescription(
    vocabulary=11, width=8, layers=2, heads=4, length=9, kind="llama", hidden=12, key_heads=2, head_size=4, tied=False
)
KINDS = {"gpt2": GPT2, "llama": LLAMA}


def perturbed(params, key):
    """Parameters none of which is 0 or 1."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(one, leaf.shape) for leaf, one in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def numpy_logits(params, tokens, description):
    """The logits of one sequence, head by head and position by position."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    d, llama = description, description.kind == "llama"
    size, shared = d.of_head, d.heads // (d.key_heads or d.heads)

    def norm(w, x):
        x = x if llama else x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + d.epsilon) * w["scale"]
        return x if llama else x + w["shift"]

    def linear(w, x):
        return x @ w["kernel"] + w.get("bias", 0)

    def rotated(vector, position):
        half = size // 2
        pairs = vector[:half] + 1j * vector[half:]
        pairs = pairs * np.exp(1j * position * d.base ** (-np.arange(half) / half))
        return np.concatenate([pairs.real, pairs.imag])

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = params["tokens"]["embedding"][tokens]
    if not llama:
        x = x + params["positions"]["embedding"][: len(tokens)]
    for i in range(d.layers):
        w = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        y = norm(w["norm1"], x)
        q, k, v = (linear(w[name], y) for name in ("query", "key", "value"))
        heads = []
        for head in range(d.heads):
            of = lambda array, number: array[:, number * size : (number + 1) * size]  # noqa: E731
            one_q, one_k, one_v = of(q, head), of(k, head // shared), of(v, head // shared)
            if llama:
                one_q, one_k = (np.stack([rotated(r, t) for t, r in enumerate(a)]) for a in (one_q, one_k))
            rows = []
            for t in range(len(tokens)):
                first = 0 if d.window is None else max(0, t + 1 - d.window)
                weights = softmax(one_k[first : t + 1] @ one_q[t] / np.sqrt(size))
                rows.append(weights @ one_v[first : t + 1])
            heads.append(np.stack(rows))
        x = x + linear(w["output"], np.concatenate(heads, axis=1))
        y = norm(w["norm2"], x)
        up = linear(w["up"], y)
        if llama:
            gate = linear(w["gate"], y)
            x = x + linear(w["down"], gate / (1 + np.exp(-gate)) * up)
        else:
            x = x + linear(w["down"], gelu(up))
    x = norm(params["norm"], x)
    return x @ (params["tokens"]["embedding"].T if d.tied else params["head"]["kernel"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.usefixtures("x64")
def test_it_equals_a_forward_pass_in_numpy(kind, window):
    description = models.TransformerDescription(**{**vars(KINDS[kind]), "window": window})
    model = models.transformer(description)
    params = perturbed(jax.jit(model.init)(KEY), KEY)
    tokens = jax.random.randint(KEY, (2, 7), 0, 11)
    found = jax.jit(model.apply)(params, tokens)
    for one, logits in zip(np.asarray(tokens), found, strict=True):
        assert relative_error(logits, numpy_logits(params, one, description)) < 1e-6


@pytest.mark.usefixtures("x64")
def test_recomputed_blocks_have_the_same_derivatives():
    tokens = jax.random.randint(KEY, (2, 6), 0, 11)
    batch = Examples(tokens[:, :-1], tokens[:, 1:])

    def gradient(**options):
        model = models.transformer(LLAMA, **options)
        loss = losses.supervised(model, losses.cross_entropy)
        return jax.jit(jax.grad(lambda params: loss(params, batch, KEY)[0]))(perturbed(model.init(KEY), KEY))

    plain = gradient()
    assert relative_error(gradient(recompute=True), plain) < 1e-10
    assert relative_error(gradient(attention=jax.nn.dot_product_attention), plain) < 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "with layers=0 cannot be"),
        ({"window": 0}, "with window=0 cannot be"),
        ({"heads": 3}, "width of 8 cannot be shared by 3 heads"),
        ({"key_heads": 3, "heads": 4}, "4 heads cannot share 3 heads of keys"),
        ({"kind": "llama", "head_size": 3}, "Heads of 3 numbers cannot be rotated"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(InnerloopError, match=message):
        models.TransformerDescription(**{**vars(GPT2), **changes})


def test_a_sequence_that_is_too_long_is_refused():
    model = models.transformer(GPT2)
    with pytest.raises(InnerloopError, match="up to 9 tokens, not 10"):
        model.apply(model.init(KEY), jnp.zeros((1, 10), int))
