r"""The natural-gradient step within a trust region, for any pytree of parameters.

With the gradient $g$ of the loss and the Hessian $F$ of the divergence from the policy that acted,

$$ d = F^{-1} g,\qquad \theta' = \theta - \beta\, d,\qquad \beta = \eta^n \sqrt{\frac{2\delta}{d^\top F d}} , $$

with the least $n$ at which the loss is lower and the divergence at most $\delta$. If there is none, nothing changes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.rl.updates import Problem
from innerloop.types import Metrics, Params, Scalar


@dataclass(frozen=True)
class TrustRegion:
    r"""The outer update of MAML's paper, with its settings.

    Args:
        bound: the largest mean divergence, $\delta$, in nats.
        damping: added to the diagonal of $F$.
        iterations: of conjugate gradients, at most.
        residual: the squared norm of the residual at which they stop.
        shrink: $\eta$, the factor from one try of the line search to the next.
        tries: of the line search, at most.
        recompute: keep nothing from one product with $F$ to the next. Otherwise the adaptation's activations are kept,
            for all tasks, in about 10 times the memory of tasks x steps x hidden units.

    Raises:
        InnerloopError: for a setting outside its range.

    Reference:
        Schulman et al.: Trust Region Policy Optimization, 2015, arXiv 1502.05477.
    """

    bound: float = 0.01
    damping: float = 1e-5
    iterations: int = 10
    residual: float = 1e-10
    shrink: float = 0.8
    tries: int = 15
    recompute: bool = False

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise InnerloopError(f"The trust region's bound is {self.bound}; it must be positive.")
        if not (self.damping >= 0 and self.residual >= 0 and self.iterations >= 1 and self.tries >= 1):
            raise InnerloopError(f"{self} needs at least one iteration and try, and no negative damping or residual.")
        if not 0 < self.shrink < 1:
            raise InnerloopError(f"The line search shrinks steps by {self.shrink}; it must be between 0 and 1.")

    def init(self, learned: Params) -> tuple[()]:
        """Nothing is kept from step to step."""
        return ()

    def update(self, problem: Problem, learned: Params, state: tuple[()]) -> tuple[Params, tuple[()], Metrics]:
        """One natural-gradient step."""
        gradient, _ = problem.gradient(learned)
        learned, metrics = natural_step(self, learned, gradient, problem.curvature(learned), problem.evaluate)
        return learned, state, metrics | {"gradient_norm": optax.tree.norm(gradient)}


def natural_step(
    region: TrustRegion,
    params: Params,
    gradient: Params,
    product: Callable[[Params], Params],
    evaluate: Callable[[Params], tuple[Scalar, Scalar]],
) -> tuple[Params, Metrics]:
    """One step. Pure; it compiles as a whole.

    Args:
        region: the settings.
        params: where to start, any pytree of floating-point arrays.
        gradient: of the loss there.
        product: multiplies a vector by the Hessian of the divergence there; exact, from automatic differentiation.
        evaluate: `params -> (loss, divergence)`.

    Returns:
        The parameters after the step and the metrics `loss_before`, `loss_after`, `kl`, `accepted` (1 or 0), and
        `tries`, the number of times that the step was shrunk.

    Example:
        >>> import jax.numpy as jnp
        >>> evaluate = lambda x: (jnp.sum((x - 1) ** 2), 2 * jnp.sum(x**2))
        >>> x, metrics = natural_step(TrustRegion(), jnp.zeros(1), jnp.array([-2.0]), lambda v: 4 * v, evaluate)
        >>> print(x.round(4), metrics["kl"].round(4))
        [0.0707] 0.01
    """

    def damped(vector: Params) -> Params:
        return jax.tree.map(lambda a, b: a + region.damping * b, product(vector), vector)

    direction, residual = conjugate_gradients(damped, gradient, region.iterations, region.residual)
    # d·F d without a product of its own.
    curvature = jnp.asarray(optax.tree.vdot(direction, optax.tree.sub(gradient, residual)))
    length = jnp.sqrt(2 * region.bound / jnp.maximum(curvature, jnp.finfo(curvature.dtype).tiny))
    loss_before, kl_before = evaluate(params)

    def moved(n: Array) -> Params:
        scale = length * region.shrink**n
        return jax.tree.map(lambda leaf, d: leaf - (scale * d).astype(leaf.dtype), params, direction)

    def search(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        n, _, _, _ = carry
        loss, kl = evaluate(moved(n))
        # Comparisons with NaN are false: a step to where nothing is finite is refused like any other.
        return n + 1, (loss < loss_before) & (kl <= region.bound), loss, kl

    start = jnp.zeros((), jnp.int32), jnp.array(False), loss_before, kl_before
    n, accepted, loss, kl = lax.while_loop(lambda carry: ~carry[1] & (carry[0] < region.tries), search, start)
    after = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved(n - 1), params)
    return after, {
        "loss_before": loss_before,
        "loss_after": jnp.where(accepted, loss, loss_before),
        "kl": jnp.where(accepted, kl, kl_before),
        "accepted": accepted.astype(loss.dtype),
        "tries": n,
    }


def conjugate_gradients(
    product: Callable[[Params], Params], target: Params, iterations: int, tolerance: float
) -> tuple[Params, Params]:
    """Solve `product(x) = target` for a symmetric positive definite product, starting at 0.

    `jax.scipy.sparse.linalg.cg` would take two products more, each as dear as a meta-gradient: one for the residual
    of its start, and one for the curvature, since it does not return its last residual.

    Args:
        product: multiplies a pytree by the matrix.
        target: the right-hand side.
        iterations: at most; each takes one product.
        tolerance: stop when the squared norm of the residual is no more.

    Returns:
        The solution, and the residual `target - product(solution)`.
    """
    vdot = lambda a, b: jnp.asarray(optax.tree.vdot(a, b))  # noqa: E731
    add = lambda a, scale, b: jax.tree.map(lambda a, b: a + scale * b, a, b)  # noqa: E731

    def proceed(carry: tuple[Array, Params, Params, Params, Array]) -> Array:
        return (carry[0] < iterations) & (carry[4] > tolerance)

    def step(carry: tuple[Array, Params, Params, Params, Array]) -> tuple[Array, Params, Params, Params, Array]:
        n, x, residual, way, squared = carry
        image = product(way)
        length = squared / vdot(way, image)
        x, residual = add(x, length, way), add(residual, -length, image)
        before, squared = squared, vdot(residual, residual)
        return n + 1, x, residual, add(residual, squared / before, way), squared

    start = jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, target), target, target, vdot(target, target)
    _, x, residual, _, _ = lax.while_loop(proceed, step, start)
    return x, residual
