r"""The natural-gradient step within a trust region, for any pytree of parameters.

With the gradient $g$ of the loss and the Hessian $F$ of the divergence from the policy that acted,

$$ d = F^{-1} g,\qquad \theta' = \theta - \beta\, d,\qquad \beta = \eta^n \sqrt{\frac{2\delta}{d^\top F d}} , $$

with the least $n$ at which the loss is lower and the divergence at most $\delta$. If there is none, nothing changes.

In meta-learning there are two policies whose divergence may be meant: the adapted one, as in MAML's paper, and the
initial one. The adapted one is the one whose return the loss estimates. But where adaptation is sensitive to where it
begins, its divergence lets $\theta$ hardly move; and its curvature goes through the adaptation, at the cost of a
meta-gradient for each product, where that of the initial policy costs a forward and a backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.rl.updates import DIVERGENCES, Needs, Problem, Values, progress
from innerloop.types import Metrics, Params


@dataclass(frozen=True)
class TrustRegion:
    r"""The outer update of MAML's paper, with its settings.

    Args:
        bound: the largest mean divergence, $\delta$, in nats.
        divergence: whose it is: `"adapted"`, that of the policies after adaptation, or `"initial"`, that of the policy
            before it. What the rule learns (step sizes, say) has no influence on the latter: it is refused.
        cap: the largest mean divergence of the other of the two, in nats, which the line search keeps too; 0: any.
        curvature_tasks: tasks from which the curvature $F$ is computed; the gradient and the line search are always
            over all. 0: all.
        curvature_every: and from every so-manyth step of these tasks, before adaptation and after it. Steps that follow
            each other are alike. DiCE, where each step depends on those before it, adapts on all of them.
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
    divergence: str = "adapted"
    cap: float = 0.0
    curvature_tasks: int = 0
    curvature_every: int = 1

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise InnerloopError(f"The trust region's bound is {self.bound}; it must be positive.")
        if not (self.damping >= 0 and self.residual >= 0 and self.iterations >= 1 and self.tries >= 1):
            raise InnerloopError(f"{self} needs at least one iteration and try, and no negative damping or residual.")
        if not 0 < self.shrink < 1:
            raise InnerloopError(f"The line search shrinks steps by {self.shrink}; it must be between 0 and 1.")
        if self.divergence not in DIVERGENCES:
            raise InnerloopError(
                f"The trust region bounds no divergence {self.divergence!r}; choose one of: {', '.join(DIVERGENCES)}."
            )
        if not self.cap >= 0:
            raise InnerloopError(f"The cap on the other divergence is {self.cap}; it must be positive, or 0 for none.")
        if self.curvature_tasks < 0:
            raise InnerloopError(
                f"The curvature is computed from curvature_tasks={self.curvature_tasks} tasks; give at least 1, or 0 "
                "for all."
            )
        if self.curvature_every < 1:
            raise InnerloopError(
                f"The curvature is computed from every curvature_every={self.curvature_every} steps; give at least 1."
            )

    @property
    def needs(self) -> Needs:
        """Which curvature, and from how many tasks and steps."""
        return Needs(
            divergence=self.divergence,
            curvature_tasks=self.curvature_tasks,
            curvature_every=self.curvature_every,
            recompute=self.recompute,
        )

    def init(self, learned: Params) -> tuple[()]:
        """Nothing is kept from step to step."""
        return ()

    def update(self, problem: Problem, learned: Params, state: tuple[()]) -> tuple[Params, tuple[()], Metrics]:
        """One natural-gradient step."""
        gradient, found = problem.gradient(learned)
        zero = jnp.zeros_like(found["loss"])
        before = Values(found["loss"], zero, zero)  # the policies that acted are those of `learned`
        product = problem.curvature(learned)
        learned, metrics = natural_step(self, learned, gradient, product, problem.evaluate, before)
        return learned, state, metrics | {"gradient_norm": optax.tree.norm(gradient)}


def natural_step(
    region: TrustRegion,
    params: Params,
    gradient: Params,
    product: Callable[[Params], Params],
    evaluate: Callable[[Params], Values],
    before: Values | None = None,
) -> tuple[Params, Metrics]:
    """One step. Pure; it compiles as a whole.

    Args:
        region: the settings.
        params: where to start, any pytree of floating-point arrays.
        gradient: of the loss there.
        product: multiplies a vector by the Hessian of the divergence there; exact, from automatic differentiation.
        evaluate: `params -> Values`.
        before: the values at the start, where they are known already.

    Returns:
        The parameters after the step and the metrics of `innerloop.rl.updates.progress`, with `accepted` (1 or 0),
        `tries`, how many steps were tried, `cg_residual`, the norm of what the conjugate gradients left of the
        gradient's, 0 to 1 or more.

    Example:
        >>> import jax.numpy as jnp
        >>> evaluate = lambda x: Values(jnp.sum((x - 1) ** 2), 2 * jnp.sum(x**2), jnp.zeros(()))
        >>> x, metrics = natural_step(TrustRegion(), jnp.zeros(1), jnp.array([-2.0]), lambda v: 4 * v, evaluate)
        >>> print(x.round(4), metrics["kl"].round(4))
        [0.0707] 0.01
    """

    def damped(vector: Params) -> Params:
        return jax.tree.map(lambda a, b: a + region.damping * b, product(vector), vector)

    direction, residual = conjugate_gradients(damped, gradient, region.iterations, region.residual)
    # d·F d without a product of its own.
    curvature = jnp.asarray(optax.tree.vdot(direction, optax.tree.sub(gradient, residual)))
    tiny = jnp.finfo(curvature.dtype).tiny
    length = jnp.sqrt(2 * region.bound / jnp.maximum(curvature, tiny))
    before = evaluate(params) if before is None else before

    def within(at: Values) -> Array:
        bounded, other = (at.adapted, at.initial) if region.divergence == "adapted" else (at.initial, at.adapted)
        return bounded <= region.bound if region.cap == 0 else (bounded <= region.bound) & (other <= region.cap)

    def moved(n: Array) -> Params:
        scale = length * region.shrink**n
        return jax.tree.map(lambda leaf, d: leaf - (scale * d).astype(leaf.dtype), params, direction)

    def search(carry: tuple[Array, Array, Values]) -> tuple[Array, Array, Values]:
        n, _, _ = carry
        found = evaluate(moved(n))
        # Comparisons with NaN are false: a step to where nothing is finite is refused like any other.
        return n + 1, (found.loss < before.loss) & within(found), found

    start = jnp.zeros((), jnp.int32), jnp.array(False), before
    n, accepted, found = lax.while_loop(lambda carry: ~carry[1] & (carry[0] < region.tries), search, start)
    after, found = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), (moved(n - 1), found), (params, before))
    return after, progress(before.loss, found, optax.tree.sub(after, params)) | {
        "accepted": accepted.astype(before.loss.dtype),
        "tries": n,
        "cg_residual": optax.tree.norm(residual) / jnp.maximum(optax.tree.norm(gradient), tiny),
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
