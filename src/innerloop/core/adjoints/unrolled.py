r"""Derivatives through the updates one by one: all of them, none, the last ones, or first none and then all."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from innerloop.core.adjoints.loops import (
    first_order,
    forward_mode_refused,
    looped,
    number_of_steps,
    observed,
    without_derivative,
)
from innerloop.core.adjoints.mixed import Mixed
from innerloop.errors import InnerloopError
from innerloop.types import Adjoint, InnerLoss, InnerRun, InnerUpdate, Progress


@dataclass(frozen=True)
class Reverse:
    r"""Reverse mode over reverse mode, the reference against which the others are tested.

    The residuals of every inner step (its activations) are stored. Any order of derivative and forward mode work.

    Args:
        unroll: the largest number of inner steps that are unrolled; longer loops run as a `lax.scan`.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, arXiv 1703.03400.
    """

    unroll: int = 5

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        return looped(partial(update, jax.value_and_grad(loss, has_aux=True)), carry, xs, self.unroll)


@dataclass(frozen=True)
class FirstOrder:
    r"""The first-order approximation (FOMAML): $\partial g / \partial\theta = 0$, no second derivative is taken.

    The inner gradient is a known number, whatever the loss sees or closes over. What remains is the gradient with
    respect to the start of the loop, and to the rule's parameters (a step size, say). The inner *losses* have no
    derivative under this approximation: to differentiate them is refused (`innerloop.InnerloopError` while JAX traces,
    also under `jit`, `vmap` and `scan`), never zero.

    There is no forward mode (`jax.jvp`) of the loop itself; forward mode of the meta-gradient works.

    Args:
        unroll: the largest number of inner steps that are unrolled; longer loops run as a `lax.scan`.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, section 5.2.
    """

    unroll: int = 5

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        run = first_order(update, loss, carry, xs, self.unroll)
        return _losses_refused(run, update, loss, carry, xs, "FirstOrder")


@dataclass(frozen=True)
class Truncated:
    r"""Exact through the last `last` inner steps, first-order through those before.

    On a quadratic task with Hessian $A$ the factor $[(I - \alpha A)^k]^\top$ of the meta-gradient becomes
    $[(I - \alpha A)^{\min(k, \text{last})}]^\top$. Memory does not grow with the number of steps.
    The inner *losses* of the steps before have no derivative: to differentiate them is refused, never zero.

    Args:
        last: number of steps at the end of the loop that are differentiated exactly, at least 0.
        adjoint: how these are differentiated.

    Reference:
        Shaban et al.: Truncated Back-propagation for Bilevel Optimization, 2019, arXiv 1810.10667.
    """

    last: int = 1
    adjoint: Adjoint = Mixed()

    def __post_init__(self) -> None:
        if self.last < 0:
            raise InnerloopError(
                f"Truncated(last={self.last}) cannot look back a negative number of steps; use 0 or more."
            )
        if isinstance(self.adjoint, type):
            raise InnerloopError(f"Truncated takes an adjoint such as Mixed(), not the class {self.adjoint.__name__}.")

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        early = max(number_of_steps(xs) - self.last, 0)
        start = first_order(update, loss, carry, jax.tree.map(lambda leaf: leaf[:early], xs), FirstOrder.unroll)
        start = _losses_refused(start, update, loss, carry, xs, f"Truncated(last={self.last})")
        end = self.adjoint.run(update, loss, start.carry, jax.tree.map(lambda leaf: leaf[early:], xs), progress)
        losses, outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), start[1:3], end[1:3])
        return InnerRun(end.carry, losses, outputs, end.diagnostics)


@dataclass(frozen=True)
class Annealed:
    r"""First-order at the beginning of training, then exact (derivative-order annealing).

    Progress is a share of training, from 0 to 1; `innerloop.meta_step(..., iterations=...)` tells it. Which of the two
    it is gets decided as the compiled program runs, so the cheap steps are cheap. The inner *losses* have no derivative
    while it is first-order: to differentiate them is refused at any time.

    Args:
        anneal_fraction: the share of training that is first-order.
        adjoint: how the rest is differentiated.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502.
    """

    anneal_fraction: float = 1 / 3
    adjoint: Adjoint = Mixed()

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        if progress is None:
            raise InnerloopError(
                "Annealed changes over training, so it must be told how far that is: use meta_step(iterations=...), or "
                "hand the progress, from 0 to 1, to the meta-loss."
            )
        exact = self.adjoint
        unroll = exact.unroll if isinstance(exact, Mixed | Reverse) else FirstOrder.unroll
        run = lax.cond(
            progress < self.anneal_fraction,
            lambda: first_order(update, loss, carry, xs, unroll),
            lambda: exact.run(update, loss, carry, xs, progress),
        )
        return _losses_refused(run, update, loss, carry, xs, "Annealed")


def _losses_refused(run: InnerRun, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, name: str) -> InnerRun:
    """The run whose losses refuse to be differentiated."""
    if not run.losses.shape[0]:
        return run
    value, _ = observed(update, loss, carry, jax.tree.map(lambda leaf: leaf[0], xs))
    sentence = (
        f"{name} takes inner gradients for known numbers, so it has no derivative of the inner losses of these steps; "
        "use adjoint=Mixed() if the outer loss depends on them, or jax.lax.stop_gradient if its gradient should not."
    )
    with forward_mode_refused(name):
        return run._replace(losses=without_derivative(run.losses, (value, carry, run.carry), sentence))
