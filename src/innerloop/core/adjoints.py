r"""How the meta-gradient flows back through the inner loop: a value handed to `adapt`.

Write one inner update as $\theta_{t+1} = u(\theta_t, g(\theta_t))$ with the inner gradient
$g(\theta) = \nabla_\theta L(\theta, z)$, where $z$ is all else that the loss sees: data, keys, parameters that are not
adapted. Reverse mode through the update needs, for a cotangent $v$ of $g$, the products

$$ \frac{\partial g}{\partial\theta}^{\!\top} v = H v \qquad\text{and}\qquad \frac{\partial g}{\partial z}^{\!\top} v .
$$

An adjoint says how these are computed, and how the loop over the updates is run.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg

from innerloop.core.trees import differentiable, merge, split
from innerloop.errors import InnerloopError
from innerloop.types import Metrics, Params, Scalar

InnerLoss = Callable[[Params, Any], tuple[Scalar, Metrics]]
"""`(params, z) -> (loss, metrics)`"""

Gradient = Callable[[Params, Any], tuple[tuple[Scalar, Metrics], Params]]
"""`(params, z) -> ((loss, metrics), inner gradient)`"""

Update = Callable[[Gradient, Any, Any], tuple[Any, Any]]
"""`(gradient, carry, x) -> (carry, y)`: one inner update, in the manner of `lax.scan`, with any inner gradient."""


@runtime_checkable
class Adjoint(Protocol):
    """Runs an inner loop in such a way that its derivative is the one that the adjoint stands for."""

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        """Apply `update` over the leading axis of `xs`, as `lax.scan` does.

        Args:
            update: one inner update, written against any inner gradient.
            loss: the inner loss whose gradient `update` asks for.
            carry: the state before the first update: the parameters, and what the rule keeps.
            xs: what changes from step to step, leaves `[steps, ...]`.

        Returns:
            The state after the last update and the stacked outputs, leaves `[steps, ...]`.
        """
        ...


def _loop(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, unroll: int) -> tuple[Any, Any]:
    """`lax.scan`, or a Python loop of up to `unroll` steps: faster to run, and slower to compile, in proportion."""
    steps = jax.tree.leaves(xs)[0].shape[0]
    if not 0 < steps <= unroll:
        return lax.scan(step, carry, xs)
    ys = []
    for t in range(steps):
        carry, y = step(carry, jax.tree.map(lambda leaf, t=t: leaf[t], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


def _segmented(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, segment: int) -> tuple[Any, Any]:
    """`lax.scan` that keeps the carry of every `segment`-th step for the backward pass, and recomputes the others."""
    steps = jax.tree.leaves(xs)[0].shape[0]
    whole = steps // segment
    even = jax.tree.map(lambda leaf: leaf[: whole * segment].reshape(whole, segment, *leaf.shape[1:]), xs)
    rest = jax.tree.map(lambda leaf: leaf[whole * segment :], xs)
    carry, first = lax.scan(jax.checkpoint(partial(lax.scan, step), prevent_cse=False), carry, even)
    carry, last = lax.scan(step, carry, rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a.reshape(-1, *a.shape[2:]), b]), first, last)


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

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        return _loop(partial(update, jax.value_and_grad(loss, has_aux=True)), carry, xs, self.unroll)


@dataclass(frozen=True)
class Mixed:
    r"""Exact, with the Hessian-vector product taken forward over reverse, and recomputation instead of storage.

    The backward pass through one inner gradient is a single Jacobian-vector product: with $v$ the cotangent of $g$ and
    $\lambda$ that of the inner loss,

    $$ \Bigl(\frac{\partial g}{\partial(\theta, z)}\Bigr)^{\!\top} v + \lambda\, \nabla_{(\theta,z)} L
       = \frac{d}{d\varepsilon}\Bigl[
         (1 + \varepsilon\lambda)\, \nabla_{(\theta, z)} L(\theta + \varepsilon v, z)
         \Bigr]_{\varepsilon=0} . $$

    Only $\theta_t$ and $z$ are kept from each step of a scanned loop, never its activations: temporary memory is that
    of one step plus `steps` times the size of the adapted parameters. With `segment=m` it is that of one step plus
    `steps / m + m` times their size, for one more evaluation of each inner gradient; $m \approx \sqrt{\text{steps}}$
    needs least. (XLA shares the recomputed activations of an *unrolled* loop with those of the forward pass, which is
    faster and takes the memory of `Reverse`.)

    Pure forward mode (`jax.jvp`, `jax.jacfwd` of the meta-loss itself) is not available; forward mode *of its gradient*
    is, so Hessian-vector products work.

    Args:
        unroll: the largest number of inner steps that are unrolled; longer loops run as a `lax.scan`.
        segment: keep the parameters at the start of every `segment` inner steps only, and recompute those in between.

    Reference:
        Kemaev et al.: Scalable Meta-Learning via Mixed-Mode Differentiation, 2025, arXiv 2505.00793.
    """

    unroll: int = 5
    segment: int | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and self.segment < 1:
            raise InnerloopError(f"Mixed(segment={self.segment}) cannot recompute fewer than 1 step; use 1 or more.")

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        step = partial(update, mixed_value_and_grad(loss))
        try:
            if self.segment is None:
                return _loop(step, carry, xs, self.unroll)
            return _segmented(step, carry, xs, self.segment)
        except (TypeError, NotImplementedError) as error:
            if "custom_vjp function" not in str(error) and "custom_lin" not in str(error):
                raise
            raise InnerloopError(
                "Mixed has no forward mode (jvp, jacfwd) of its own; use adjoint=Reverse(), or take forward mode of "
                "the meta-gradient, which Mixed has."
            ) from error


@dataclass(frozen=True)
class FirstOrder:
    r"""The first-order approximation (FOMAML): $\partial g / \partial\theta = 0$, no second derivative is taken.

    The inner gradient and the inner loss are known numbers, whatever the loss sees or closes over. What remains is the
    gradient with respect to the start of the loop, and to the rule's parameters (a step size, say).

    Args:
        unroll: the largest number of inner steps that are unrolled; longer loops run as a `lax.scan`.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, section 5.2.
    """

    unroll: int = 5

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        def gradient(params: Params, z: Any) -> tuple[tuple[Scalar, Metrics], Params]:
            return lax.stop_gradient(jax.value_and_grad(loss, has_aux=True)(*lax.stop_gradient((params, z))))

        return _loop(partial(update, gradient), carry, xs, self.unroll)


@dataclass(frozen=True)
class Truncated:
    r"""Exact through the last `last` inner steps, first-order through those before.

    On a quadratic task with Hessian $A$ the factor $[(I - \alpha A)^k]^\top$ of the meta-gradient becomes
    $[(I - \alpha A)^{\min(k, \text{last})}]^\top$. Memory does not grow with the number of steps.

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

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        steps = jax.tree.leaves(xs)[0].shape[0]
        early = max(steps - self.last, 0)
        carry, first = FirstOrder().run(update, loss, carry, jax.tree.map(lambda leaf: leaf[:early], xs))
        carry, last = self.adjoint.run(update, loss, carry, jax.tree.map(lambda leaf: leaf[early:], xs))
        return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)


@dataclass(frozen=True)
class Annealed:
    r"""First-order at the beginning of training, then exact (derivative-order annealing).

    Progress is a share of training, from 0 to 1; `innerloop.meta_step(..., iterations=...)` tells it. Which of the two
    it is gets decided as the compiled program runs, so the cheap steps are cheap.

    Args:
        until: the share of training that is first-order.
        adjoint: how the rest is differentiated.
        progress: the share of training done.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502.
    """

    until: float = 1 / 3
    adjoint: Adjoint = Mixed()
    progress: Any = None

    def at(self, progress: Any) -> "Annealed":
        """The adjoint at that progress."""
        return replace(self, progress=progress)

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        if self.progress is None:
            raise InnerloopError(
                "Annealed changes over training, so it must be told how far that is: use meta_step(iterations=...), or "
                "hand the progress, from 0 to 1, to the meta-loss."
            )
        cheap = FirstOrder(getattr(self.adjoint, "unroll", FirstOrder.unroll))
        return lax.cond(
            self.progress < self.until,
            lambda: cheap.run(update, loss, carry, xs),
            lambda: self.adjoint.run(update, loss, carry, xs),
        )


Solver = Callable[[Callable[[Params], Params], Params], tuple[Params, Any]]
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

    def __call__(self, matrix: Callable[[Params], Params], right: Params) -> tuple[Params, Any]:
        # The recurrence believes in a residual that is a little smaller than the true one, so it aims lower.
        solution, _ = cg(matrix, right, tol=0.5 * self.tolerance, maxiter=self.steps)
        rest = jax.tree.map(jnp.subtract, matrix(solution), right)
        return solution, _norm(rest) <= self.tolerance * _norm(right)


@dataclass(frozen=True)
class Implicit:
    r"""The implicit gradient of iMAML: it depends on where the inner loop ends, not on the way there.

    The inner loop minimises $L(\phi, z) + \tfrac\lambda2 \lVert\phi - \theta\rVert^2$. At its minimum $\phi^*$ its
    gradient $\nabla L(\phi^*, z) + \lambda(\phi^* - \theta)$ is zero, so by the implicit function theorem, with
    $H = \nabla^2 L(\phi^*, z)$ and the solution $u$ of $(H + \lambda I)\,u = v$, a cotangent $v$ of $\phi^*$ becomes

    $$ \lambda\, u \ \text{ for } \theta, \qquad
       -\Bigl(\frac{\partial \nabla L}{\partial z}\Bigr)^{\!\top} u \ \text{ for all else that the loss sees.} $$

    Memory does not depend on the number of steps. The rule's own parameters get no gradient, since the minimum does not
    depend on them. The inner loop must come close to the minimum for the gradient to be right, and the system must be
    positive definite; `meta_loss` reports both, see there.

    Args:
        regularisation: $\lambda$, positive; large values keep the adapted parameters near the initialisation.
        solver: solves the linear system.
        tally: two numbers whose "gradient" tells of the backward pass: 1 if the system was not solved, and
            $\lVert\nabla L + \lambda(\phi - \theta)\rVert$ relative to the norms of its two parts.

    Reference:
        Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients, 2019, arXiv 1909.04630.
    """

    regularisation: float = 1.0
    solver: Solver = ConjugateGradient()
    tally: Any = None

    def __post_init__(self) -> None:
        if not 0 < self.regularisation < float("inf"):
            raise InnerloopError(f"Implicit(regularisation={self.regularisation}) needs a positive number.")

    def run(self, update: Update, loss: InnerLoss, carry: Any, xs: Any) -> tuple[Any, Any]:
        if not jax.tree.leaves(xs)[0].shape[0]:
            return carry, lax.scan(partial(update, jax.value_and_grad(loss, has_aux=True)), carry, xs)[1]
        if len(jax.tree.leaves(xs)) > 1:
            raise InnerloopError(
                "Implicit needs one support batch for all inner steps, whose loss has a minimum; use Mixed() for "
                "PerStep batches."
            )
        start = carry[0]
        pull, plain = self.regularisation, jax.value_and_grad(loss, has_aux=True)

        def proximal(params: Params, z: Any) -> tuple[tuple[Scalar, Metrics], Params]:
            value, gradients = plain(*lax.stop_gradient((params, z)))
            towards = lambda g, now, then: g + pull * (now - then)  # noqa: E731
            return lax.stop_gradient((value, jax.tree.map(towards, gradients, params, start)))

        (end, state), ys = lax.stop_gradient(lax.scan(partial(update, proximal), lax.stop_gradient(carry), xs))

        seen: list[Any] = []  # what the loss sees beside the parameters, as the last update hands it over

        def notice(params: Params, z: Any) -> tuple[tuple[Scalar, Metrics], Params]:
            seen.append(z)
            return proximal(params, z)

        update(notice, (end, state), jax.tree.map(lambda leaf: leaf[-1], xs))
        tally = jnp.zeros(2) if self.tally is None else self.tally
        return (self._minimum(loss, start, seen[0], tally, end), state), ys

    def _minimum(self, loss: InnerLoss, start: Params, z: Any, tally: Any, end: Params) -> Params:
        """`end`, with the derivative of the minimum."""
        inner, floats, others, closed_over = _explicit(loss, end, z)
        pull = self.regularisation

        @jax.custom_vjp
        def minimum(start: Params, floats: Any, closed_over: Any, tally: Any, others: Any, end: Params) -> Params:
            return end

        def forward(start: Params, floats: Any, closed_over: Any, tally: Any, others: Any, end: Params) -> Any:
            return end, (start, floats, closed_over, others, end)

        def backward(kept: Any, end_bar: Params) -> tuple[Any, ...]:
            start, floats, closed_over, others, end = kept

            def gradients(params: Params) -> Any:
                of = lambda params, floats, closed_over: inner(params, floats, others, closed_over)[0]  # noqa: E731
                return jax.grad(of, (0, 1, 2))(params, floats, closed_over)

            def matrix(tangent: Params) -> Params:
                product = jax.jvp(lambda params: gradients(params)[0], (end,), (tangent,))[1]
                return jax.tree.map(lambda h, t: h + pull * t, product, tangent)

            solution, solved = self.solver(matrix, end_bar)
            (slope, *_), (_, floats_bar, closed_bar) = jax.jvp(gradients, (end,), (solution,))
            spring = jax.tree.map(lambda now, then: pull * (now - then), end, start)
            rest = _norm(jax.tree.map(jnp.add, slope, spring))
            size = jnp.maximum(_norm(slope) + _norm(spring), jnp.finfo(rest.dtype).tiny)
            tally_bar = jnp.stack([jnp.where(solved, 0.0, 1.0), rest / size]).astype(tally.dtype)
            floats_bar, closed_bar = jax.tree.map(jnp.negative, (floats_bar, closed_bar))
            return jax.tree.map(lambda u: pull * u, solution), floats_bar, closed_bar, tally_bar, None, None

        minimum.defvjp(forward, backward)
        return minimum(start, floats, closed_over, tally, others, end)


def _norm(tree: Params) -> Any:
    return jnp.sqrt(sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(tree)))


def _explicit(loss: InnerLoss, params: Params, z: Any) -> tuple[Callable[..., tuple[Scalar, Metrics]], Any, Any, Any]:
    """The loss as `(params, floats, others, closed_over) -> (scalar, metrics)`, with the last three of its arguments.

    A custom VJP differentiates in its arguments alone, so what the loss closes over becomes one.
    """
    floats, others = split(z, differentiable(z))

    def explicit(params: Params, floats: Any, others: Any) -> tuple[Scalar, Metrics]:
        return loss(params, merge(floats, others))

    pure, closed_over = jax.closure_convert(explicit, params, floats, others)

    def inner(params: Params, floats: Any, others: Any, closed_over: Any) -> tuple[Scalar, Metrics]:
        return pure(params, floats, others, *closed_over)

    return inner, floats, others, closed_over


def mixed_value_and_grad(loss: InnerLoss) -> Gradient:
    """`jax.value_and_grad(loss, has_aux=True)` in its first argument, with a forward-over-reverse derivative.

    Args:
        loss: `(params, z) -> (scalar, metrics)`; it may close over traced arrays, and be differentiated in them.

    Returns:
        `(params, z) -> ((scalar, metrics), gradient)`, whose reverse-mode derivative is described at `Mixed`.
    """

    def value_and_grad(params: Params, z: Any) -> tuple[tuple[Scalar, Metrics], Params]:
        inner, floats, others, closed_over = _explicit(loss, params, z)
        plain = jax.value_and_grad(inner, has_aux=True)
        gradient = jax.custom_vjp(plain)

        def forward(*arguments: Any) -> tuple[Any, Any]:
            return plain(*arguments), arguments

        def backward(arguments: Any, cotangents: Any) -> tuple[Any, ...]:
            params, floats, others, closed_over = arguments
            (loss_bar, _), gradient_bar = cotangents

            def pullback(params: Params, seed: Scalar) -> Any:
                of_floats = lambda params, floats, closed_over: inner(params, floats, others, closed_over)  # noqa: E731
                return jax.vjp(of_floats, params, floats, closed_over, has_aux=True)[1](seed)

            one = jnp.ones_like(loss_bar)
            _, (params_bar, floats_bar, closed_bar) = jax.jvp(pullback, (params, one), (gradient_bar, loss_bar))
            return params_bar, floats_bar, None, closed_bar

        gradient.defvjp(forward, backward)
        return gradient(params, floats, others, closed_over)

    return value_and_grad
