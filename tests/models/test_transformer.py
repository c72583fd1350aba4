"""The transformer's derivatives and what it refuses; its values are tested in test_pretrained.py."""

import jax
import jax.numpy as jnp
import pytest

from innerloop import Examples, InnerloopError, losses, models
from oracles import relative_error

KEY = jax.random.key(0)
GPT2 = models.TransformerDescription(vocabulary=11, width=8, layers=2, heads=2, length=9)
LLAMA = models.TransformerDescription(
    vocabulary=11, width=8, layers=2, heads=4, length=9, kind="llama", hidden=12, key_heads=2, head_size=4, tied=False
)


def perturbed(params, key):
    """Parameters none of which is 0 or 1."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(one, leaf.shape) for leaf, one in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


@pytest.mark.usefixtures("x64")
def test_recomputed_blocks_have_the_same_derivatives():
    tokens = jax.random.randint(KEY, (2, 6), 0, 11)
    batch = Examples(tokens[:, :-1], tokens[:, 1:])

    def gradient(**options):
        model = models.transformer(LLAMA, **options)
        loss = losses.supervised(model, losses.cross_entropy)
        return jax.jit(jax.grad(lambda params: loss(params, batch, KEY)[0]))(perturbed(model.init(KEY), KEY))

    assert relative_error(gradient(recompute=True), gradient()) < 1e-10


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
