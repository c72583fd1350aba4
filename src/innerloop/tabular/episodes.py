r"""Tasks of unequal sizes, cut from one table of rows: supports and queries of fixed, padded shapes."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.tasks.images import distinct
from innerloop.types import Examples, PRNGKey, Task

WINDOW = 1024
"""Rows of a task among which an episode is drawn; a larger task shows a random window of its shuffled rows."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RaggedEpisodes:
    r"""Episodes from tasks with any number of rows each. Build them with `RaggedEpisodes.from_rows`.

    An episode draws a task, a support size $n$ among `supports`, and a random order of the task's rows that is
    *stratified*: every class appears among the first rows, and then in proportion to its share of the task. The first
    $n$ rows are the support set, at most three quarters of the task, and the next `queries` the query set. Both are
    padded to fixed shapes; padding has the weight 0.

    Attributes:
        x: features, a pytree with leaves `[rows, ...]`, of whatever compact type the network reads.
        y: class within its task, or target, `[rows]`.
        starts: first row of each task, `[tasks]`.
        counts: number of rows of each task, `[tasks]`.
        supports: the sizes of support sets, drawn uniformly.
        queries: rows of a query set.
        classes: the most classes that a task has; 1 for regression.
        window: rows of a task among which an episode is drawn.
    """

    x: Any
    y: Any
    starts: Any
    counts: Any
    supports: tuple[int, ...] = field(metadata={"static": True})
    queries: int = field(metadata={"static": True})
    classes: int = field(metadata={"static": True})
    window: int = field(metadata={"static": True})

    @classmethod
    def from_rows(
        cls, x: Any, y: np.ndarray, tasks: np.ndarray, *, supports: tuple[int, ...], queries: int, seed: int = 0
    ) -> "RaggedEpisodes":
        """Episodes from rows with a task each.

        Args:
            x: features, a pytree of arrays `[rows, ...]`.
            y: the class of each row within its task, integers from 0, or real targets, `[rows]`.
            tasks: the task of each row, integers, `[rows]`.
            supports: sizes of the support sets.
            queries: rows of a query set.
            seed: of the order of the rows within a task.

        Raises:
            InnerloopError: if a size is not positive, lengths differ, targets are no numbers, or a task has fewer than
                two rows.

        Example:
            >>> import jax, numpy as np
            >>> from innerloop.tabular.episodes import RaggedEpisodes
            >>> tasks, y = np.repeat([0, 1, 2], [5, 30, 9]), np.arange(44) % 2
            >>> tables = RaggedEpisodes.from_rows(np.ones((44, 3)), y, tasks, supports=(4, 8), queries=6)
            >>> episode = tables.sample(jax.random.key(0), num_tasks=16)
            >>> episode.support.x.shape, episode.query.weight.shape
            ((16, 8, 3), (16, 6))
        """
        y, tasks = np.asarray(y), np.asarray(tasks)
        if not supports or min(*supports, queries) < 1:
            raise InnerloopError(f"supports={supports} and queries={queries} must be at least 1 each.")
        _require_rows(x, y, tasks)
        if y.dtype.kind not in "iubf":
            raise InnerloopError(
                f"y holds {y.dtype} values such as {y[:1].tolist()}; it must hold classes as integers from 0 "
                "(numpy.unique(labels, return_inverse=True)[1] within each task), or real targets."
            )
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise InnerloopError(f"y is not finite in row {int(np.argmin(np.isfinite(y)))} (from 0); drop such rows.")
        if y.dtype.kind == "i" and len(y) and y.min() < 0:
            raise InnerloopError(f"y holds the class {y.min()}; classes are integers from 0.")
        order = np.lexsort((np.random.default_rng(seed).random(len(tasks)), tasks))
        names, starts, counts = np.unique(tasks[order], return_index=True, return_counts=True)
        if not len(names) or counts.min() < 2:
            smallest = f"task {names[np.argmin(counts)]} has {counts.min()}" if len(names) else "there are no tasks"
            raise InnerloopError(f"A task needs at least 2 rows, but {smallest}; leave it out.")
        whole = y.dtype.kind in "iub"
        return cls(
            x=jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[order]), x),
            y=jnp.asarray(y[order], jnp.int32 if whole else jnp.float32),
            starts=jnp.asarray(starts, jnp.int32),
            counts=jnp.asarray(counts, jnp.int32),
            supports=tuple(supports),
            queries=queries,
            classes=int(y.max()) + 1 if whole else 1,
            window=min(int(counts.max()), WINDOW),
        )

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw episodes of `Examples` with weights: `[tasks, max(supports), ...]` and `[tasks, queries, ...]`."""
        return jax.vmap(self._episode)(jax.random.split(key, num_tasks))

    def numbers(self, key: PRNGKey, num_tasks: int) -> Array:
        """The tasks that `sample` draws with this key, `[tasks]`."""
        return jax.vmap(self._task)(jax.random.split(key, num_tasks))

    def _task(self, key: PRNGKey) -> Array:
        return jax.random.randint(jax.random.split(key, 4)[0], (), 0, self.starts.shape[0])

    def _episode(self, key: PRNGKey) -> Task:
        _, size_key, window_key, order_key = jax.random.split(key, 4)
        task = self._task(key)
        count = self.counts[task]
        places = jax.random.randint(window_key, (), 0, count) + jnp.arange(self.window)
        rows = self.starts[task] + places % count
        valid = jnp.arange(self.window) < count
        labels = self.y[rows] if jnp.issubdtype(self.y.dtype, jnp.integer) else jnp.zeros(self.window, jnp.int32)
        rows = rows[stratified(order_key, jnp.where(valid, labels, self.classes), self.classes)]
        count = jnp.minimum(count, self.window)
        size = jnp.asarray(self.supports)[jax.random.randint(size_key, (), 0, len(self.supports))]
        size = jnp.minimum(size, count - jnp.maximum(count // 4, 1))

        def batch(first: Array | int, number: int, end: Array) -> Examples:
            slots = first + jnp.arange(number)
            chosen = rows[slots % count]
            return Examples(
                jax.tree.map(lambda leaf: leaf[chosen], self.x), self.y[chosen], (slots < end).astype(jnp.float32)
            )

        return Task(batch(0, max(self.supports), size), batch(size, self.queries, count))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassEpisodes:
    """Episodes of some classes of a task that has many, such as characters of an alphabet. Build with `from_rows`.

    An episode draws a task, `ways` of its classes, which it labels in random order, and a number of shots among
    `shots`. Support sets are padded to the largest; padding has the weight 0.

    Attributes:
        x: features, a pytree with leaves `[rows, ...]`, sorted by task and class.
        starts: first row of each class, `[classes]`.
        counts: rows of each class, `[classes]`.
        first: first class of each task, `[tasks]`.
        many: classes of each task, `[tasks]`.
        ways: classes in an episode.
        shots: numbers of support rows of each class, drawn uniformly.
        queries: query rows of each class.
    """

    x: Any
    starts: Any
    counts: Any
    first: Any
    many: Any
    ways: int = field(metadata={"static": True})
    shots: tuple[int, ...] = field(metadata={"static": True})
    queries: int = field(metadata={"static": True})

    @classmethod
    def from_rows(
        cls, x: Any, y: np.ndarray, tasks: np.ndarray, *, ways: int, shots: tuple[int, ...], queries: int
    ) -> "ClassEpisodes":
        """Episodes from rows with a task and a class each. Tasks with fewer than `ways` classes are left out.

        Args:
            x: features, a pytree of arrays `[rows, ...]`.
            y: the class of each row, texts or integers, `[rows]`.
            tasks: the task of each row, integers, `[rows]`.
            ways: classes in an episode.
            shots: numbers of support rows of each class.
            queries: query rows of each class.

        Raises:
            InnerloopError: if no task has so many classes, or a class has too few rows.

        Example:
            >>> import jax, numpy as np
            >>> from innerloop.tabular.episodes import ClassEpisodes
            >>> y, tasks = np.arange(60) % 6, np.arange(60) // 30
            >>> drawn = ClassEpisodes.from_rows(np.ones((60, 4)), y, tasks, ways=3, shots=(1, 2), queries=2)
            >>> drawn.sample(jax.random.key(0), num_tasks=8).support.x.shape
            (8, 6, 4)
        """
        y, tasks = np.asarray(y), np.asarray(tasks)
        _require_rows(x, y, tasks)
        _, y = np.unique(y.astype(str), return_inverse=True)
        names, counted = np.unique(np.unique(np.stack([tasks, y]), axis=1)[0], return_counts=True)
        if not (counted >= ways).any():
            raise InnerloopError(
                f"ways={ways}, but no task has more than {counted.max(initial=0)} classes; lower ways."
            )
        chosen = np.flatnonzero(np.isin(tasks, names[counted >= ways]))
        order = chosen[np.lexsort((y[chosen], tasks[chosen]))]
        pairs, starts, counts = np.unique(
            np.stack([tasks[order], y[order]]), axis=1, return_index=True, return_counts=True
        )
        if counts.min() < max(shots) + queries:
            raise InnerloopError(
                f"shots={max(shots)} + queries={queries} rows are asked of every class, but one has {counts.min()}; "
                "lower one of them."
            )
        _, first, many = np.unique(pairs[0], return_index=True, return_counts=True)
        as_index = lambda values: jnp.asarray(values, jnp.int32)  # noqa: E731
        return cls(
            jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[order]), x),
            *map(as_index, (starts, counts, first, many)),
            ways=ways,
            shots=tuple(shots),
            queries=queries,
        )

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw episodes of `Examples` with weights, sorted by class."""
        return jax.vmap(self._episode)(jax.random.split(key, num_tasks))

    def numbers(self, key: PRNGKey, num_tasks: int) -> Array:
        """The tasks that `sample` draws with this key, among those that have enough classes, `[tasks]`."""
        return jax.vmap(self._task)(jax.random.split(key, num_tasks))

    def _task(self, key: PRNGKey) -> Array:
        return jax.random.randint(jax.random.split(key, 4)[0], (), 0, self.first.shape[0])

    def _episode(self, key: PRNGKey) -> Task:
        _, classes_key, rows_key, shots_key = jax.random.split(key, 4)
        task = self._task(key)
        classes = self.first[task] + distinct(classes_key, self.many[task], self.ways)
        most = max(self.shots)
        within = jax.vmap(lambda key, count: distinct(key, count, most + self.queries))(
            jax.random.split(rows_key, self.ways), self.counts[classes]
        )
        rows = self.starts[classes][:, None] + within
        shots = jnp.asarray(self.shots)[jax.random.randint(shots_key, (), 0, len(self.shots))]
        labels = jnp.arange(self.ways)

        def batch(rows: Array, weight: Array) -> Examples:
            x = jax.tree.map(lambda leaf: leaf[rows.reshape(-1)], self.x)
            return Examples(x, jnp.repeat(labels, rows.shape[1]), jnp.tile(weight, self.ways))

        support = batch(rows[:, :most], (jnp.arange(most) < shots).astype(jnp.float32))
        return Task(support, batch(rows[:, most:], jnp.ones(self.queries)))


def _require_rows(x: Any, y: np.ndarray, tasks: np.ndarray) -> None:
    """Refuse features, targets and tasks that do not have one entry for each row."""
    for name, values in (("y", y), ("tasks", tasks)):
        if values.ndim != 1:
            raise InnerloopError(f"{name} has the shape {list(values.shape)}; it must be [rows].")
    lengths = {len(y), len(tasks), *(len(leaf) for leaf in jax.tree.leaves(x))}
    if len(lengths) > 1:
        raise InnerloopError(f"Features, targets and tasks have {sorted(lengths)} rows; they must agree.")


def stratified(key: PRNGKey, labels: Array, classes: int) -> Array:
    """A random order whose every beginning has the classes in proportion, and where one row of each class comes first.

    Args:
        key: randomness.
        labels: class of each row, from 0; what is `classes` or more comes last, `[rows]`.
        classes: number of classes.

    Returns:
        The order as indices, `[rows]`.
    """
    draw_key, offset_key = jax.random.split(key)
    grouped = jnp.lexsort((jax.random.uniform(draw_key, labels.shape), labels))
    sorted_labels = labels[grouped]
    counts = jnp.sum(labels[:, None] == jnp.arange(classes + 1), axis=0)
    rank = jnp.arange(labels.shape[0]) - (jnp.cumsum(counts) - counts)[sorted_labels]
    offsets = jax.random.uniform(offset_key, (classes + 1,))
    place = (rank + offsets[sorted_labels]) / counts[sorted_labels]
    place = jnp.where(rank == 0, place - 1, place)
    return grouped[jnp.argsort(jnp.where(sorted_labels < classes, place, jnp.inf))]


def padded_size(count: int, smallest: int = 8) -> int:
    """The power of two that `count` rows are padded to, so that few shapes are ever compiled.

    Example:
        >>> padded_size(3), padded_size(16), padded_size(17)
        (8, 16, 32)
    """
    return max(smallest, 1 << max(count - 1, 0).bit_length())
