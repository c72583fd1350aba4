"""Distributions made of other distributions."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.types import Batch, PerStep, PRNGKey, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WithSupportStatistics:
    """The same tasks, whose query batch carries the support inputs as the reference for normalisation.

    Attributes:
        tasks: a distribution of tasks of `Examples`.
    """

    tasks: Any  # a TaskDistribution; but JAX also builds this tree with other leaves

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw tasks with `query.reference` set."""
        support, query = self.tasks.sample(key, num_tasks)
        return Task(support, query._replace(reference=support.x))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Minibatched:
    """The same tasks, each inner step on a few of the support examples, as Reptile trains.

    They are gone through in random order, and again in another order when all were seen.

    Attributes:
        tasks: a distribution of tasks.
        steps: inner steps.
        size: support examples in a step.

    Reference:
        Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018, arXiv 1803.02999.
    """

    tasks: Any  # a TaskDistribution; but JAX also builds this tree with other leaves
    steps: int = field(metadata={"static": True})
    size: int = field(metadata={"static": True})

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw tasks whose support is `PerStep`, leaves `[tasks, steps, size, ...]`.

        Raises:
            InnerloopError: if a step asks for more examples than the support set has.
        """
        task_key, order_key = jax.random.split(key)
        support, query = self.tasks.sample(task_key, num_tasks)
        return Task(jax.vmap(self._batches)(support, jax.random.split(order_key, num_tasks)), query)

    def _batches(self, support: Batch, key: PRNGKey) -> PerStep:
        examples, wanted = jax.tree.leaves(support)[0].shape[0], self.steps * self.size
        if not 0 < self.size <= examples:
            raise InnerloopError(
                f"An inner step on {self.size} support examples needs at least as many; the support set has {examples}."
            )

        def one(key: PRNGKey) -> Array:
            return jax.random.permutation(key, examples)

        rounds = jax.vmap(one)(jax.random.split(key, -(-wanted // examples)))
        order = jnp.ravel(rounds)[:wanted].reshape(self.steps, self.size)
        return PerStep(jax.tree.map(lambda leaf: leaf[order], support))
