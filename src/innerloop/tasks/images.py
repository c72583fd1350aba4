"""N-way K-shot episodes from any labelled examples: images, or whatever else comes in classes."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.types import Examples, PRNGKey, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Episodes:
    """N-way K-shot episodes. Build them with `Episodes.from_labels`.

    Attributes:
        data: examples sorted by class, `[examples, ...]`; unsigned bytes are pixels, and are divided by 255 when drawn.
        starts: index of the first example of each class, `[classes]`.
        counts: number of examples of each class, `[classes]`.
        ways: classes in an episode, labelled 0 to `ways - 1` in random order.
        shots: support examples of each class.
        queries: query examples of each class.
    """

    data: Any  # arrays; but JAX also builds this tree with descriptions of arrays in their place
    starts: Any
    counts: Any
    ways: int = field(metadata={"static": True})
    shots: int = field(metadata={"static": True})
    queries: int = field(metadata={"static": True})

    @classmethod
    def from_labels(cls, data: np.ndarray, labels: np.ndarray, *, ways: int, shots: int, queries: int) -> "Episodes":
        """Episodes from examples with class labels; classes may differ in size.

        Args:
            data: `[examples, ...]`: unsigned bytes (pixels) or finite floating-point numbers.
            labels: the class of each example, integers or strings, `[examples]`.
            ways: classes in an episode.
            shots: support examples of each class.
            queries: query examples of each class.

        Raises:
            InnerloopError: if there are too few classes or examples, if lengths differ, if labels are real numbers, or
                if the data is not finite.

        Example:
            >>> import jax, numpy as np
            >>> from innerloop.tasks import Episodes
            >>> images = np.zeros((60, 28, 28, 1), np.uint8)
            >>> episodes = Episodes.from_labels(images, np.repeat(np.arange(6), 10), ways=5, shots=1, queries=5)
            >>> task = episodes.sample(jax.random.key(0), num_tasks=32)
            >>> task.support.x.shape, task.query.y.shape
            ((32, 5, 28, 28, 1), (32, 25))
        """
        data, labels = np.asarray(data), np.asarray(labels)
        if not len(data):
            raise InnerloopError("There are no examples; give at least ways x (shots + queries) of them.")
        if labels.dtype.kind == "O" and len(kinds := {type(each).__name__ for each in labels}) > 1:
            raise InnerloopError(f"The class labels are of several types ({', '.join(sorted(kinds))}); make them one.")
        if labels.shape != data.shape[:1]:
            raise InnerloopError(
                f"There are {len(data)} examples but labels of shape {list(labels.shape)}; give one label for each."
            )
        if data.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(data).reshape(len(data), -1).all(axis=1))
            if bad.size:
                raise InnerloopError(
                    f"{bad.size} of {len(data)} examples hold NaN or infinite values, the first at index {bad[0]}; "
                    "mend or drop them."
                )
        elif data.dtype != np.uint8:
            raise InnerloopError(
                f"Examples are of type {data.dtype}; they must be unsigned bytes (pixels) or floating-point numbers."
            )
        require_episodes(labels, ways=ways, shots=shots, queries=queries)
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        as_index = lambda values: jnp.asarray(values, jnp.int32)  # noqa: E731
        return cls(jnp.asarray(data[order]), as_index(starts), as_index(counts), ways, shots, queries)

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw episodes, sorted by class: `[tasks, ways * shots, ...]` and `[tasks, ways * queries, ...]`."""
        return jax.vmap(self._episode)(jax.random.split(key, num_tasks))

    def _episode(self, key: PRNGKey) -> Task:
        classes_key, examples_key = jax.random.split(key)
        classes = distinct(classes_key, self.starts.shape[0], self.ways)
        per_class = self.shots + self.queries
        within = jax.vmap(lambda key, count: distinct(key, count, per_class))(
            jax.random.split(examples_key, self.ways), self.counts[classes]
        )
        indices = self.starts[classes][:, None] + within
        labels = jnp.arange(self.ways)

        def batch(indices: Array) -> Examples:
            return Examples(as_numbers(self.data[indices.reshape(-1)]), jnp.repeat(labels, indices.shape[1]))

        return Task(batch(indices[:, : self.shots]), batch(indices[:, self.shots :]))


def require_episodes(labels: np.ndarray, *, ways: int, shots: int, queries: int) -> None:
    """Check that such episodes can be drawn from examples with these labels.

    Raises:
        InnerloopError: if there are too few classes or examples, or if labels are real numbers.
    """
    if labels.dtype.kind not in "iuUSOb":
        raise InnerloopError(
            f"Class labels are {labels.dtype} numbers; they must be integers or strings (real targets need regression)."
        )
    if min(ways, shots, queries) < 1:
        raise InnerloopError(
            f"An episode needs at least 1 way, shot and query, not ways={ways}, shots={shots}, queries={queries}."
        )
    names, counts = np.unique(labels, return_counts=True)
    if ways > len(names):
        raise InnerloopError(f"ways={ways}, but there are only {len(names)} classes; lower ways.")
    smallest = int(np.argmin(counts))
    if shots + queries > counts[smallest]:
        raise InnerloopError(
            f"shots={shots} + queries={queries} examples are asked of every class, but class {names[smallest]!s} "
            f"has only {counts[smallest]}; lower one of them."
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batches:
    """Batches of examples with the label they have among all classes, for training without episodes.

    Attributes:
        data: `[examples, ...]`; unsigned bytes are pixels, and are divided by 255 when drawn.
        labels: the class of each example, `[examples]`.
        size: examples in a batch.
    """

    data: Any
    labels: Any
    size: int = field(metadata={"static": True})

    @classmethod
    def from_labels(cls, data: np.ndarray, labels: np.ndarray, *, size: int) -> "Batches":
        """Batches of `size` from examples with integer labels."""
        return cls(jnp.asarray(data), jnp.asarray(labels, jnp.int32), size)

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw "tasks" whose support and query are the same batch, `[tasks, size, ...]`."""
        indices = jax.random.randint(key, (num_tasks, self.size), 0, self.labels.shape[0])
        batch = Examples(as_numbers(self.data[indices]), self.labels[indices])
        return Task(batch, batch)


def as_numbers(data: Array) -> Array:
    """Pixels as numbers from 0 to 1; what is no pixel stays as it is."""
    return data.astype(jnp.float32) / 255 if data.dtype == jnp.uint8 else data


def distinct(key: PRNGKey, size: int | Array, count: int) -> Array:
    """`count` different integers below `size`, uniformly and in random order, in time that does not depend on `size`.

    Args:
        key: randomness.
        size: how many integers there are to choose from, at least `count`; it may be traced.
        count: how many to choose.

    Reference:
        Bentley, Floyd: Programming Pearls: A Sample of Brilliance, 1987 (algorithm F).
    """
    draw_key, order_key = jax.random.split(key)
    largest = (size - count + jnp.arange(count)).astype(jnp.int32)  # also in double precision
    draws = jax.random.randint(draw_key, (count,), 0, largest + 1, jnp.int32)

    def choose(i: Array, chosen: Array) -> Array:
        return chosen.at[i].set(jnp.where(jnp.any(chosen == draws[i]), largest[i], draws[i]))

    chosen = lax.fori_loop(0, count, choose, jnp.full((count,), -1, jnp.int32))
    return jax.random.permutation(order_key, chosen)


def with_rotations(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every class turned by 0, 90, 180 and 270 degrees, each turn a class of its own.

    Args:
        images: `[examples, side, side, channels]`.
        labels: class indices from 0, `[examples]`.

    Returns:
        Four times as many images and labels; the class `c` turned by `r` quarters is `4 * c + r`.

    Reference:
        Santoro et al.: Meta-Learning with Memory-Augmented Neural Networks, 2016.
    """
    turned = [np.rot90(images, quarters, axes=(1, 2)) for quarters in range(4)]
    return np.concatenate(turned), np.concatenate([4 * labels + quarters for quarters in range(4)])
