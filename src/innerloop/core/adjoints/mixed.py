r"""Mixed mode: exact derivatives whose memory does not hold the activations of every inner step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from innerloop.core.adjoints.loops import explicit, forward_mode_refused, looped, nested, segmented
from innerloop.core.trees import differentiable, split
from innerloop.errors import InnerloopError
from innerloop.types import InnerGradient, InnerLoss, InnerRun, InnerUpdate, Metrics, Params, Progress, Scalar, State


@dataclass(frozen=True)
class Mixed:
    r"""Exact, with the Hessian-vector product taken forward over reverse, and recomputation instead of storage.

    The backward pass through one inner gradient is a single Jacobian-vector product: with $v$ the cotangent of $g$,
    $\lambda$ that of the inner loss and $\sigma$ that of the state $h$ which a `StatefulLoss` hands on,

    $$ \Bigl(\frac{\partial g}{\partial(\theta, z)}\Bigr)^{\!\top} v + \lambda\, \nabla_{(\theta,z)} L
       + \Bigl(\frac{\partial h}{\partial(\theta, z)}\Bigr)^{\!\top} \sigma
       = \frac{d}{d\varepsilon}\Bigl[ \nabla_{(\theta, z)} \bigl(
         (1 + \varepsilon\lambda)\, L + \varepsilon\, \sigma^\top h
         \bigr)(\theta + \varepsilon v, z) \Bigr]_{\varepsilon=0} . $$

    Only $\theta_t$ and $z$ are kept from each step of a scanned loop, never its activations: temporary memory is that
    of one step plus `steps` times the size of the adapted parameters. With `segment=m` it is that of one step plus
    `steps / m + m` times their size, for one more evaluation of each inner gradient; $m \approx \sqrt{\text{steps}}$
    needs least. With `levels=n` it is that of one step plus about $(n + 1)\,\text{steps}^{1/(n+1)}$ times their size,
    for $n$ more evaluations of each inner gradient, whatever the number of steps. (XLA shares the recomputed
    activations of an *unrolled* loop with those of the forward pass, which is faster and takes the memory of
    `Reverse`.)

    Pure forward mode (`jax.jvp`, `jax.jacfwd` of the meta-loss itself) is not available; forward mode *of its gradient*
    is, so Hessian-vector products work.

    Args:
        unroll: the largest number of inner steps that are unrolled; longer loops run as a `lax.scan`.
        segment: keep the parameters at the start of every `segment` inner steps only, and recompute those in between.
        levels: keep the parameters at the start of segments, in each of these at the start of shorter segments, and so
            on `levels` times (recursive checkpointing); 1 is a `segment` of about the root of the number of steps.

    Reference:
        Kemaev et al.: Scalable Meta-Learning via Mixed-Mode Differentiation, 2025, arXiv 2505.00793.
        Griewank: Achieving logarithmic growth of temporal and spatial complexity in reverse automatic differentiation,
        1992.
    """

    unroll: int = 5
    segment: int | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        for name, value in {"unroll": self.unroll, "segment": self.segment, "levels": self.levels}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise InnerloopError(f"Mixed({name}={value!r}) needs a whole number.")
        if self.segment is not None and self.segment < 1:
            raise InnerloopError(f"Mixed(segment={self.segment}) cannot recompute fewer than 1 step; use 1 or more.")
        if self.levels is not None and self.levels < 1:
            raise InnerloopError(f"Mixed(levels={self.levels}) needs a number of levels of at least 1.")
        if self.levels is not None and self.segment is not None:
            raise InnerloopError(
                f"Mixed(segment={self.segment}, levels={self.levels}) says twice how to recompute; leave one of them "
                "out."
            )

    def run(self, update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, progress: Progress = None, /) -> InnerRun:
        step = partial(update, mixed_value_and_grad(loss))
        with forward_mode_refused("Mixed"):
            if self.levels is not None:
                return nested(step, carry, xs, self.levels)
            if self.segment is None:
                return looped(step, carry, xs, self.unroll)
            return segmented(step, carry, xs, self.segment)


def mixed_value_and_grad(loss: InnerLoss) -> InnerGradient:
    """`jax.value_and_grad(loss, has_aux=True)` in its first argument, with a forward-over-reverse derivative.

    Args:
        loss: `(params, z) -> (scalar, (state, metrics))`; it may close over traced arrays, in which it is
            differentiated too.

    Returns:
        `(params, z) -> ((scalar, (state, metrics)), gradient)`, whose reverse-mode derivative is described at `Mixed`.
    """

    def value_and_grad(params: Params, z: Any) -> tuple[tuple[Scalar, tuple[State, Metrics]], Params]:
        inner, floats, others, closed_over = explicit(loss, params, z)
        plain = jax.value_and_grad(inner, has_aux=True)
        gradient = jax.custom_vjp(plain)

        def forward(*arguments: Any) -> tuple[Any, Any]:
            return plain(*arguments), arguments

        def backward(arguments: Any, cotangents: Any) -> tuple[Any, ...]:
            params, floats, others, closed_over = arguments
            (loss_bar, (state_bar, _)), gradient_bar = cotangents
            state_bar, _ = split(state_bar, differentiable(state_bar))

            def of_floats(params: Params, floats: Any, closed_over: Any) -> tuple[Scalar, State]:
                value, (state, _) = inner(params, floats, others, closed_over)
                return value, split(state, differentiable(state))[0]

            def pullback(params: Params, seeds: Any) -> Any:
                return jax.vjp(of_floats, params, floats, closed_over)[1](seeds)

            seeds = jnp.ones_like(loss_bar), jax.tree.map(jnp.zeros_like, state_bar)
            tangents = gradient_bar, (loss_bar, state_bar)
            _, (params_bar, floats_bar, closed_bar) = jax.jvp(pullback, (params, seeds), tangents)
            return params_bar, floats_bar, None, closed_bar

        gradient.defvjp(forward, backward)
        return gradient(params, floats, others, closed_over)

    return value_and_grad
