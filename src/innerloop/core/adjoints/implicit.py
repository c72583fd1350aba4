r"""The implicit gradient: of where the inner loop ends, whatever the way there."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.sparse.linalg import cg

from innerloop.core.adjoints.loops import (
    Step,
    explicit,
    forward_mode_refused,
    looped,
    number_of_steps,
    observed,
    without_derivative,
)
from innerloop.errors import InnerloopError
from innerloop.types import InnerGradient, InnerLoss, InnerRun, InnerUpdate, Params, Progress, Scalar

Solver = Callable[[Callable[[Params], Params], Params], tuple[Params, Array]]
"""`(matrix, right side) -> (solution, whether it was found)`, for a symmetric matrix given as its product."""


@dataclass(frozen=True)
class ConjugateGradient:
    r"""Solves $Ax = b$ for symmetric positive definite $A$ from products with $A$ alone.

    Args:
        steps: the largest number of products.
        tolerance: found is an $x$ with $\lVert Ax - b\rVert \le \text{tolerance}\,\lVert b\rVert$.
    """

    steps: int = 20
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.tolerance < 1:
            raise InnerloopError(f"{self} cannot solve anything; use at least 1 step and a tolerance between 0 and 1.")

    def __call__(self, matrix: Callable[[Params], Params], right: Params) -> tuple[Params, Array]:
        # The recurrence believes in a residual that is a little smaller than the true one, so it aims lower.
        solution, _ = cg(matrix, right, tol=0.5 * self.tolerance, maxiter=self.steps)
        residual = jax.tree.map(jnp.subtract, matrix(solution), right)
        return solution, _norm(residual) <= self.tolerance * _norm(right)


@dataclass(frozen=True)
class Implicit:
    r"""The implicit gradient of iMAML: it depends on where the inner loop ends, not on the way there.

    The inner loop minimises $L(\phi, z) + \tfrac\lambda2 \lVert\phi - \theta\rVert^2$. At its minimum $\phi^*$ its
    gradient $\nabla L(\phi^*, z) + \lambda(\phi^* - \theta)$ is zero, so by the implicit function theorem, with
    $H = \nabla^2 L(\phi^*, z)$ and the solution $u$ of $(H + \lambda I)\,u = v$, a cotangent $v$ of $\phi^*$ becomes

    $$ \lambda\, u \ \text{ for } \theta, \qquad
       -\Bigl(\frac{\partial \nabla L}{\partial z}\Bigr)^{\!\top} u \ \text{ for all else that the loss sees.} $$

    Memory does not depend on the number of steps. Gradients flow to all that the inner loss depends on: the
    initialisation, data, leaves that are not adapted, what the loss closes over. The rule's own parameters get none,
    since the minimum does not depend on them. The way there has no derivative: to differentiate the inner losses or the
    trajectory is refused, never zero.

    The inner loop must come close to the minimum for the gradient to be right: the diagnostic `stationarity` is
    $\lVert\nabla L + \lambda(\phi - \theta)\rVert$ relative to the norms of its two parts, from 0 at the minimum to 1.
    And the system must be positive definite and solved: `innerloop.core.metagrad.implicit_diagnostics` tells.

    Args:
        regularisation: $\lambda$, positive; large values keep the adapted parameters near the initialisation.
        solver: solves the linear system.
        line_search: whether the inner steps are searched: the update is scaled by $s$, from 1; where it raises the
            regularised inner loss (or makes it no number) it is not taken and $s$ is halved, else $s$ grows by half. So
            no task's inner loop diverges, for one more evaluation of the inner loss at every step. For rules whose
            update is proportional to the gradient, such as `rules.sgd`.
        levels: refused: nothing of the way is kept, so there is nothing to recompute.

    Reference:
        Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients, 2019, arXiv 1909.04630.
    """

    regularisation: float = 1.0
    solver: Solver = ConjugateGradient()
    line_search: bool = False
    levels: InitVar[int | None] = None

    def __post_init__(self, levels: int | None) -> None:
        if levels is not None:
            raise InnerloopError(
                f"Implicit(levels={levels}) has no steps to recompute, as its memory does not depend on their number; "
                "leave levels out, or use Mixed(levels=...)."
            )
        if not 0 < self.regularisation < float("inf"):
            raise InnerloopError(f"Implicit(regularisation={self.regularisation}) needs a positive number.")

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        plain = jax.value_and_grad(loss, has_aux=True)
        if not number_of_steps(xs):
            return looped(partial(update, plain), carry, xs, unroll=0)
        if len(jax.tree.leaves(xs)) > 1:
            raise InnerloopError(
                "Implicit needs one support batch for all inner steps, whose loss has a minimum; use Mixed() for "
                "PerStep batches."
            )
        if jax.tree.leaves(carry[2]):
            raise InnerloopError(
                "Implicit has no derivative of a state that the loss hands from step to step: it knows the end of the "
                "inner loop and not the way there; use Mixed()."
            )
        start = carry[0]
        prox_coef = self.regularisation

        def prox_gradient(params: Params, z: Any) -> tuple[tuple[Scalar, Any], Params]:
            value, loss_grad = plain(*lax.stop_gradient((params, z)))
            towards = lambda g, now, then: g + prox_coef * (now - then)  # noqa: E731
            return lax.stop_gradient((value, jax.tree.map(towards, loss_grad, params, start)))

        known = lax.stop_gradient(carry)
        if self.line_search:
            step = self._searched(update, loss, prox_gradient, start)
            run = looped(step, (known, jnp.ones((), jnp.result_type(*jax.tree.leaves(start)))), xs, unroll=0)
            run = run._replace(carry=run.carry[0])
        else:
            run = looped(partial(update, prox_gradient), known, xs, unroll=0)
        run = lax.stop_gradient(run)
        end, kept, state = run.carry
        value, z = observed(update, loss, run.carry, jax.tree.map(lambda leaf: leaf[-1], xs))
        sentence = (
            "Implicit has the derivative of the inner loop's end and not of the way there, its losses and trajectory; "
            "use adjoint=Mixed() if the outer loss depends on them, or jax.lax.stop_gradient if its gradient should "
            "not."
        )
        with forward_mode_refused("Implicit"):
            end = self._minimum(loss, start, z, end)
            losses, outputs, kept = without_derivative((run.losses, run.outputs, kept), (value, start), sentence)
        stationarity = lax.stop_gradient(self._stationarity(loss, *lax.stop_gradient((start, z)), run.carry[0]))
        return InnerRun((end, kept, state), losses, outputs, {"stationarity": stationarity})

    def _searched(self, update: InnerUpdate, loss: InnerLoss, prox_gradient: InnerGradient, start: Params) -> Step:
        """An update that is scaled until it lowers the regularised loss, and not taken where it does not."""

        def regularised(value: Scalar, params: Params) -> Scalar:
            squares = jax.tree.map(lambda now, then: jnp.sum((now - then) ** 2), params, start)
            return value + 0.5 * self.regularisation * sum(jax.tree.leaves(squares))

        def step(searched: Any, x: Any) -> tuple[Any, tuple[Scalar, Any]]:
            carry, scale = searched
            _, z = observed(update, loss, carry, x)
            observation, slope = prox_gradient(carry[0], z)

            def taken(share: Array) -> tuple[Any, tuple[Scalar, Any]]:
                return update(lambda *_: (observation, jax.tree.map(lambda g: share * g, slope)), carry, x)

            (far, far_outputs), (_, near_outputs) = taken(scale), taken(jnp.zeros_like(scale))
            lower = regularised(loss(far[0], z)[0], far[0]) <= regularised(observation[0], carry[0])
            kept, outputs = jax.tree.map(partial(jnp.where, lower), (far, far_outputs), (carry, near_outputs))
            return (kept, jnp.where(lower, 1.5 * scale, 0.5 * scale)), outputs

        return step

    def solved(self, loss: InnerLoss, end: Params, z: Any, cotangent: Params) -> Array:
        """Whether the linear system for a cotangent of the minimum is solved to the solver's tolerance."""
        inner, floats, others, closed_over = explicit(loss, end, z)
        gradient = jax.grad(lambda params: inner(params, floats, others, closed_over)[0])
        return self.solver(self._matrix(gradient, end), cotangent)[1]

    def _matrix(self, gradient: Callable[[Params], Params], end: Params) -> Callable[[Params], Params]:
        r"""Products with $H + \lambda I$."""

        def matrix(tangent: Params) -> Params:
            product = jax.jvp(gradient, (end,), (tangent,))[1]
            return jax.tree.map(lambda h, t: h + self.regularisation * t, product, tangent)

        return matrix

    def _stationarity(self, loss: InnerLoss, start: Params, z: Any, end: Params) -> Array:
        """The gradient of the regularised loss at the end, relative to the norms of its two parts."""
        loss_grad = jax.grad(loss, has_aux=True)(end, z)[0]
        prox_grad = jax.tree.map(lambda now, then: self.regularisation * (now - then), end, start)
        residual = _norm(jax.tree.map(jnp.add, loss_grad, prox_grad))
        return residual / jnp.maximum(_norm(loss_grad) + _norm(prox_grad), jnp.finfo(residual.dtype).tiny)

    def _minimum(self, loss: InnerLoss, start: Params, z: Any, end: Params) -> Params:
        """`end`, with the derivative of the minimum."""
        inner, floats, others, closed_over = explicit(loss, end, z)

        @jax.custom_vjp
        def minimum(start: Params, floats: Any, closed_over: Any, others: Any, end: Params) -> Params:
            return end

        def forward(start: Params, floats: Any, closed_over: Any, others: Any, end: Params) -> Any:
            end = minimum(start, floats, closed_over, others, end)  # so that it can be differentiated again
            return end, (floats, closed_over, others, end)

        def backward(kept: Any, end_bar: Params) -> tuple[Any, ...]:
            floats, closed_over, others, end = kept

            def gradients(params: Params) -> Any:
                of = lambda params, floats, closed_over: inner(params, floats, others, closed_over)[0]  # noqa: E731
                return jax.grad(of, (0, 1, 2))(params, floats, closed_over)

            solution, _ = self.solver(self._matrix(lambda params: gradients(params)[0], end), end_bar)
            _, floats_bar, closed_bar = jax.jvp(gradients, (end,), (solution,))[1]
            floats_bar, closed_bar = jax.tree.map(jnp.negative, (floats_bar, closed_bar))
            return jax.tree.map(lambda u: self.regularisation * u, solution), floats_bar, closed_bar, None, None

        minimum.defvjp(forward, backward)
        return minimum(start, floats, closed_over, others, end)


def _norm(tree: Params) -> Any:
    return jnp.sqrt(sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(tree)))
