"""What the adjoints have in common: loops, a loss whose closure is an argument, and derivatives that are refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from innerloop.core.trees import differentiable, is_differentiable, merge, split
from innerloop.errors import InnerloopError
from innerloop.types import InnerLoss, InnerRun, InnerUpdate, Metrics, Params, Scalar, State

Step = Callable[[Any, Any], tuple[Any, tuple[Scalar, Any]]]
"""`(carry, x) -> (carry, (loss, outputs))`"""


def number_of_steps(xs: Any) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(xs)[0].shape[0]


def looped(step: Step, carry: Any, xs: Any, unroll: int) -> InnerRun:
    """`lax.scan`, or a Python loop of up to `unroll` steps: faster to run, and slower to compile, in proportion."""
    steps = number_of_steps(xs)
    if not 0 < steps <= unroll:
        carry, (losses, outputs) = lax.scan(step, carry, xs)
        return InnerRun(carry, losses, outputs)
    ys = []
    for t in range(steps):
        carry, y = step(carry, jax.tree.map(lambda leaf, t=t: leaf[t], xs))
        ys.append(y)
    losses, outputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)
    return InnerRun(carry, losses, outputs)


def segmented(step: Step, carry: Any, xs: Any, segment: int) -> InnerRun:
    """`lax.scan` that keeps the carry of every `segment`-th step for the backward pass, and recomputes the others."""
    whole = number_of_steps(xs) // segment
    even = jax.tree.map(lambda leaf: leaf[: whole * segment].reshape(whole, segment, *leaf.shape[1:]), xs)
    rest = jax.tree.map(lambda leaf: leaf[whole * segment :], xs)
    carry, first = lax.scan(jax.checkpoint(partial(lax.scan, step), prevent_cse=False), carry, even)
    carry, last = lax.scan(step, carry, rest)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a.reshape(-1, *a.shape[2:]), b]), first, last)
    return InnerRun(carry, *joined)


def nested(step: Step, carry: Any, xs: Any, levels: int) -> InnerRun:
    r"""`lax.scan` in scans in scans, of which the backward pass recomputes all but the innermost from their start.

    With $b \approx T^{1/(n+1)}$ for $T$ steps and $n$ levels, $T$ is written in the base $b$: for each digit $d_j$
    there is a scan of $d_j$ segments of $b^j$ steps, each of which is $j$ nested scans of $b$. So no step is computed
    in vain.
    """
    steps = number_of_steps(xs)
    base = max(2, round(steps ** (1 / (levels + 1))))

    def segments(level: int, carry: Any, xs: Any) -> tuple[Any, Any]:
        if not level:
            return lax.scan(step, carry, xs)
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, base**level, *leaf.shape[1:]), xs)
        carry, ys = lax.scan(jax.checkpoint(partial(segments, level - 1), prevent_cse=False), carry, rows)
        return carry, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), ys)

    parts, done = [], 0
    for level in range(levels, -1, -1):
        size = (steps - done) // base**level * base**level
        if size or (not level and not parts):
            here = jax.tree.map(lambda leaf, a=done, b=done + size: leaf[a:b], xs)
            whole = jax.checkpoint(partial(segments, level), prevent_cse=False) if parts and level else None
            carry, ys = (whole or partial(segments, level))(carry, here)
            parts.append(ys)
            done += size
    losses, outputs = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return InnerRun(carry, losses, outputs)


def first_order(update: InnerUpdate, loss: InnerLoss, carry: Any, xs: Any, unroll: int) -> InnerRun:
    """A loop in which inner gradients and inner losses are known numbers, whatever the loss sees or closes over.

    What the loss hands on to the next step is no inner gradient: it keeps its first derivative.
    """

    def gradient(params: Params, z: Any) -> tuple[tuple[Scalar, tuple[State, Metrics]], Params]:
        known = lax.stop_gradient(jax.value_and_grad(loss, has_aux=True)(*lax.stop_gradient((params, z))))
        (value, (state, metrics)), gradients = known
        if any(is_differentiable(leaf) for leaf in jax.tree.leaves(state)):
            state, _ = loss(params, z)[1]  # the same numbers, which XLA computes once
        return (value, (state, metrics)), gradients

    return looped(partial(update, gradient), carry, xs, unroll)


def observed(update: InnerUpdate, loss: InnerLoss, carry: Any, x: Any) -> tuple[Scalar, Any]:
    """The inner loss of one update, with all its derivatives, and what the loss sees beside the parameters."""
    seen: list[tuple[Scalar, Any]] = []

    def noticing(params: Params, z: Any) -> tuple[tuple[Scalar, tuple[State, Metrics]], Params]:
        value, aux = loss(params, z)
        seen.append((value, z))
        return (value, aux), params  # any tree of this shape will do for a gradient: the update is thrown away

    update(noticing, carry, x)
    return seen[0]


def explicit(
    loss: InnerLoss, params: Params, z: Any
) -> tuple[Callable[[Params, Any, Any, Any], tuple[Scalar, tuple[State, Metrics]]], Any, Any, Any]:
    """The loss as `(params, floats, others, closed_over) -> (scalar, (state, metrics))`, and the last three of these.

    A custom VJP differentiates in its arguments alone, so what the loss closes over becomes one.
    """
    floats, others = split(z, differentiable(z))

    def of_parts(params: Params, floats: Any, others: Any) -> tuple[Scalar, tuple[State, Metrics]]:
        return loss(params, merge(floats, others))

    pure, closed_over = jax.closure_convert(of_parts, params, floats, others)

    def inner(params: Params, floats: Any, others: Any, closed_over: Any) -> tuple[Scalar, tuple[State, Metrics]]:
        return pure(params, floats, others, *closed_over)

    return inner, floats, others, closed_over


def without_derivative(values: Any, sources: Any, sentence: str) -> Any:
    """The same values, which refuse to be differentiated in what the sources depend on.

    Unlike `lax.stop_gradient`, which makes a derivative zero. What does not ask for the derivative is not disturbed:
    the check is of the symbols with which JAX differentiates, while it traces, and nothing of it is left to run.

    Args:
        values: the values, whose own derivative has been stopped.
        sources: arrays that depend on everything that the values depend on.
        sentence: what is said of it.
    """
    floats, others = split(values, differentiable(values))

    @jax.custom_vjp
    def unchanged(floats: Any, sources: Any) -> Any:
        return floats

    def forward(floats: Any, sources: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda leaf: leaf.value, floats), None

    def backward(_: None, cotangents: Any) -> tuple[None, None]:
        if any(not isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(cotangents)):
            raise InnerloopError(sentence)
        return None, None

    unchanged.defvjp(forward, backward, symbolic_zeros=True)
    return merge(unchanged(floats, sources), others)


@contextmanager
def forward_mode_refused(name: str) -> Iterator[None]:
    """Say in one sentence that an adjoint cannot be differentiated in forward mode.

    Raises:
        InnerloopError: in place of what JAX says of a custom VJP.
    """
    try:
        yield
    except (TypeError, NotImplementedError) as error:
        if "custom_vjp function" not in str(error) and "custom_lin" not in str(error):
            raise
        raise InnerloopError(
            f"{name} has no forward mode (jvp, jacfwd) of its own; use adjoint=Reverse(), or take forward mode of "
            f"the meta-gradient, which {name} has."
        ) from error
