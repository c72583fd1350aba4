"""Distributions made of other distributions."""

from dataclasses import dataclass
from typing import Any

import jax

from innerloop.types import PRNGKey, Task


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
