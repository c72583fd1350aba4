"""Streams of keys and values: each key comes twice, and the second time its value is asked for."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.types import PerStep, PRNGKey, Task
from innerloop.workloads.streams.transformer import Chunk


@jax.tree_util.register_static
@dataclass(frozen=True)
class Recall:
    """Streams `k v k v ...` in which every key has a value of its own, drawn anew for every stream.

    All keys come once in random order; then they come again, those of the first half in another order, then the others
    in another order. So a key and its question are at least `pairs + 2` tokens apart, and a network that sees less far
    can do no better than chance. Only values are counted in the loss, for nothing else can be predicted.

    Attributes:
        pairs: keys, an even number.
        values: different values.
        chunk: tokens of an inner step, a divisor of `4 * pairs`.
    """

    pairs: int
    values: int
    chunk: int

    @property
    def length(self) -> int:
        """Tokens in a stream."""
        return 4 * self.pairs

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.pairs + self.values

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Streams, each with its own values."""
        return jax.vmap(self._stream)(jax.random.split(key, num_tasks))

    def _stream(self, key: PRNGKey) -> Task:
        order, value, *halves = jax.random.split(key, 4)
        keys = jax.random.permutation(order, self.pairs)
        values = self.pairs + jax.random.randint(value, (self.pairs,), 0, self.values)
        again = [jax.random.permutation(half, part) for half, part in zip(halves, jnp.split(keys, 2), strict=True)]
        keys = jnp.concatenate([keys, *again])
        # values belong to keys, not to places
        tokens = jnp.stack([keys, values[keys]], axis=1).reshape(-1)
        targets = jnp.concatenate([tokens[1:], tokens[:1]])
        place = jnp.arange(self.length)
        steps = self.length // self.chunk
        answers = asked(self.length)
        chunk = Chunk(tokens, targets, 2.0 * (place % 2 == 0), answers * (steps / self.pairs))
        return Task(PerStep(jax.tree.map(lambda leaf: leaf.reshape(steps, self.chunk), chunk)), None)


def asked(length: int) -> Array:
    """Which tokens of a stream are followed by a value that it has shown before, `[length]`."""
    place = jnp.arange(length)
    return (place % 2 == 0) & (place >= length // 2)
