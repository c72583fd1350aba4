"""Sinusoids: the regression tasks of the MAML paper."""

from dataclasses import dataclass
from math import pi

import jax
import jax.numpy as jnp

from innerloop.errors import InnerloopError
from innerloop.types import Examples, PRNGKey, Task


@jax.tree_util.register_static
@dataclass(frozen=True)
class Sinusoids:
    r"""Regress $y = A \sin(x - \varphi)$ from a few points.

    Args:
        shots: number of support points.
        queries: number of query points.
        amplitude: range of $A$, drawn uniformly for each task.
        phase: range of $\varphi$ in radians, drawn uniformly for each task.
        inputs: range of $x$, drawn uniformly for each point.

    Raises:
        InnerloopError: if there is not at least one support and one query point, or a range is empty.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, 2017, section 5.1.

    Example:
        >>> import jax
        >>> from innerloop.tasks import Sinusoids
        >>> Sinusoids(shots=10, queries=10).sample(jax.random.key(0), num_tasks=25).support.x.shape
        (25, 10, 1)
    """

    shots: int = 10
    queries: int = 10
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, pi)
    inputs: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        if min(self.shots, self.queries) < 1:
            raise InnerloopError(
                f"Sinusoids needs at least 1 shot and 1 query, not shots={self.shots}, queries={self.queries}."
            )
        for name in ("amplitude", "phase", "inputs"):
            low, high = getattr(self, name)
            if not -float("inf") < low <= high < float("inf"):
                raise InnerloopError(
                    f"The range of the sinusoids' {name} is {low} to {high}; give it as two finite numbers, low first."
                )

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """Draw tasks: `x` and `y` are `[tasks, points, 1]`."""
        amplitude_key, phase_key, inputs_key = jax.random.split(key, 3)
        amplitude = jax.random.uniform(
            amplitude_key, (num_tasks, 1, 1), minval=self.amplitude[0], maxval=self.amplitude[1]
        )
        phase = jax.random.uniform(phase_key, (num_tasks, 1, 1), minval=self.phase[0], maxval=self.phase[1])
        points = (num_tasks, self.shots + self.queries, 1)
        x = jax.random.uniform(inputs_key, points, minval=self.inputs[0], maxval=self.inputs[1])
        y = amplitude * jnp.sin(x - phase)
        return Task(Examples(x[:, : self.shots], y[:, : self.shots]), Examples(x[:, self.shots :], y[:, self.shots :]))
