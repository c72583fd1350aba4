"""Distributions of tasks: goals and directions."""

from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.rl.types import Rng


@jax.tree_util.register_static
@dataclass(frozen=True)
class Uniform:
    """Each number of a task uniform between two bounds.

    Args:
        low: the lower bound.
        high: the upper bound.
        shape: the shape of one task.

    Raises:
        InnerloopError: if the bounds are not finite, or in the wrong order.

    Example:
        >>> import numpy as np
        >>> Uniform(-0.5, 0.5, (2,)).sample(np.random.default_rng(0), 40).shape
        (40, 2)
    """

    low: float
    high: float
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not -float("inf") < self.low <= self.high < float("inf"):
            raise InnerloopError(
                f"Tasks cannot be uniform between {self.low} and {self.high}; give two finite numbers, low first."
            )

    def sample(self, rng: Rng, num_tasks: int) -> Array | np.ndarray:
        """Draw tasks, `[tasks, *shape]`."""
        shape = (num_tasks, *self.shape)
        if isinstance(rng, np.random.Generator | np.random.RandomState):
            return rng.uniform(self.low, self.high, shape)
        return jax.random.uniform(rng, shape, minval=self.low, maxval=self.high)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Directions:
    r"""Forward (+1) or backward (-1): backward if a uniform draw lies below a threshold.

    The default is the distribution behind MAML's published numbers, in which 3 of 7 tasks are backward;
    `Directions.released()` is that of the code released later, one half.

    Args:
        low: lower bound of the draw.
        high: upper bound of the draw.
        threshold: draws below it are backward.

    Raises:
        InnerloopError: if the threshold is not between the bounds.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, 2017, section 5.3; the published draws are known from its
        stored results.

    Example:
        >>> import numpy as np
        >>> Directions().sample(np.random.RandomState(1), 5)
        array([-1.,  1., -1., -1., -1.])
    """

    low: float = 0.1
    high: float = 0.8
    threshold: float = 0.4

    def __post_init__(self) -> None:
        if not self.low <= self.threshold <= self.high:
            raise InnerloopError(
                f"The threshold of directions, {self.threshold}, is not between {self.low} and {self.high}; "
                "give low <= threshold <= high."
            )

    @classmethod
    def released(cls) -> "Directions":
        """Forward and backward alike."""
        return cls(0.0, 2.0, 1.0)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def sample(self, rng: Rng, num_tasks: int) -> Array | np.ndarray:
        """Draw directions, `[tasks]`."""
        return 1.0 - 2.0 * (Uniform(self.low, self.high).sample(rng, num_tasks) < self.threshold)
