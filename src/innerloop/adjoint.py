r"""How the meta-gradient flows back through the inner loop: a value handed to `adapt`.

Write one inner update as $\theta_{t+1} = u(\theta_t, g(\theta_t))$ with the inner gradient
$g(\theta) = \nabla_\theta L(\theta, z)$, where $z$ is all else that the loss sees: data, keys, parameters that are not
adapted. Reverse mode through the update needs, for a cotangent $v$ of $g$, the products

$$ \frac{\partial g}{\partial\theta}^{\!\top} v = H v \qquad\text{and}\qquad \frac{\partial g}{\partial z}^{\!\top} v .
$$

An adjoint says how these are computed, and how the loop over the updates is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from innerloop.errors import InnerloopError
from innerloop.trees import differentiable, merge, split
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
            carry: the state before the first update.
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


def mixed_value_and_grad(loss: InnerLoss) -> Gradient:
    """`jax.value_and_grad(loss, has_aux=True)` in its first argument, with a forward-over-reverse derivative.

    Args:
        loss: `(params, z) -> (scalar, metrics)`; it may close over traced arrays, and be differentiated in them.

    Returns:
        `(params, z) -> ((scalar, metrics), gradient)`, whose reverse-mode derivative is described at `Mixed`.
    """

    def value_and_grad(params: Params, z: Any) -> tuple[tuple[Scalar, Metrics], Params]:
        floats, others = split(z, differentiable(z))

        # A custom VJP differentiates in its arguments alone, so what the loss closes over becomes one.
        def explicit(params: Params, floats: Any, others: Any) -> tuple[Scalar, Metrics]:
            return loss(params, merge(floats, others))

        pure, closed_over = jax.closure_convert(explicit, params, floats, others)

        def inner(params: Params, floats: Any, others: Any, closed_over: Any) -> tuple[Scalar, Metrics]:
            return pure(params, floats, others, *closed_over)

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
