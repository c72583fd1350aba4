"""Your own network: a Flax NNX transformer that meta-learns to break substitution ciphers, with Adam inside.

A task is a cipher: a random assignment of the tokens to four classes. A sequence's label is the class of its last
token. From 32 labelled sequences the network must find the cipher; what it can learn beforehand is that only the last
token counts, and how to remember an assignment in five steps. Needs `pip install "innerloop[flax]"`.

    python examples/transformer.py [META_STEPS]
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import innerloop as il
from innerloop import losses, models, rules

TOKENS, LENGTH, CLASSES, WIDTH = 8, 6, 4, 32


class Transformer(nnx.Module):
    """One block of causal self-attention, and a head on the last token."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.places = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.expand, self.contract = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.tokens(tokens) + self.places(jnp.arange(LENGTH))
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(tokens))
        x = x + self.contract(nnx.gelu(self.expand(self.norm2(x))))
        return self.head(x[:, -1])


@jax.tree_util.register_static
@dataclass(frozen=True)
class Ciphers:
    """Random assignments of tokens to classes."""

    shots: int = 32
    queries: int = 32

    def sample(self, key: Array, num_tasks: int) -> il.Task:
        cipher_key, sequence_key = jax.random.split(key)
        ciphers = jax.random.randint(cipher_key, (num_tasks, TOKENS), 0, CLASSES)
        x = jax.random.randint(sequence_key, (num_tasks, self.shots + self.queries, LENGTH), 0, TOKENS)
        y = jnp.take_along_axis(ciphers, x[:, :, -1], axis=1)
        support, query = (slice(None), slice(self.shots)), (slice(None), slice(self.shots, None))
        return il.Task(il.Examples(x[support], y[support]), il.Examples(x[query], y[query]))


def main(meta_steps: int = 600) -> float:
    """Train, and return the query accuracy after adaptation at the end."""
    model = models.from_nnx(lambda rngs: Transformer(rngs=rngs))
    loss = losses.supervised(model, losses.cross_entropy)
    rule = rules.from_optax(optax.adam(0.02, eps_root=1e-8))
    optimizer = optax.adam(2e-3)
    step = il.meta_step(il.meta_loss(loss, rule=rule, steps=5), optimizer, meta_batch=8)
    train = jax.jit(il.repeat(step), donate_argnums=0)
    state = il.init(model.init(jax.random.key(0)), rule, optimizer, jax.random.key(1))
    metrics = {}
    for _ in range(6):
        state, metrics = train(state, Ciphers(), np.int32(meta_steps // 6))
        before, after = (100 * metrics[f"accuracy_{when}"] for when in ("before", "after"))
        print(f"step {int(state.step):5}: accuracy {before:.0f} % → {after:.0f} %")
    return float(metrics["accuracy_after"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
