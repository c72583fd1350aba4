"""Closed forms on quadratic tasks, and a reference of everything by finite differences.

A task has the support loss `½ (θ-a)ᵀ A (θ-a)` and the query loss `½ (θ-b)ᵀ B (θ-b)`. After `k` steps of gradient
descent with step `α`, `θ_k - a = (I - αA)^k (θ - a)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop import Task
from innerloop.types import Metrics, Params


class Quadratic(NamedTuple):
    """`½ (θ-centre)ᵀ curvature (θ-centre)`."""

    centre: Array
    curvature: Array


def quadratic_loss(params: Params, batch: Quadratic, key: Array) -> tuple[Array, Metrics]:
    offset = params - batch.centre
    return 0.5 * offset @ batch.curvature @ offset, {}


def quadratic_task(seed: int, size: int = 4) -> Task:
    rng = np.random.default_rng(seed)

    def one() -> Quadratic:
        root = rng.normal(size=(size, size))
        return Quadratic(jnp.asarray(rng.normal(size=size)), jnp.asarray(root @ root.T / size + np.eye(size)))

    return Task(one(), one())


def adapted(theta: Array, task: Task, rate: float | Array, steps: int) -> Array:
    """`θ_k` by the closed form; `rate` is a number or one step size for each parameter."""
    (a, A), size = task.support, theta.size
    shrink = jnp.linalg.matrix_power(jnp.eye(size) - jnp.diag(jnp.broadcast_to(rate, (size,))) @ A, steps)
    return a + shrink @ (theta - a)


def maml_gradient(theta: Array, task: Task, rate: float | Array, steps: int, exact_steps: int | None = None) -> Array:
    """`[(I-αA)^j]ᵀ B (θ_k - b)` with `j = k` for MAML, 0 for the first-order form, `min(k, last)` for the truncated."""
    A, (b, B), size = task.support.curvature, task.query, theta.size
    exact = steps if exact_steps is None else min(steps, exact_steps)
    shrink = jnp.linalg.matrix_power(jnp.eye(size) - jnp.diag(jnp.broadcast_to(rate, (size,))) @ A, exact)
    return shrink.T @ B @ (adapted(theta, task, rate, steps) - b)


def momentum_adapted(theta: Array, task: Task, rate: float, decay: float, steps: int) -> Array:
    """Heavy-ball momentum as optax has it: `v ← g + decay·v`, `θ ← θ - rate·v`, by its linear recursion."""
    (a, A), size = task.support, theta.size
    eye = jnp.eye(size)
    advance = jnp.block([[eye - rate * A, -rate * decay * eye], [A, decay * eye]])
    state = jnp.linalg.matrix_power(advance, steps) @ jnp.concatenate([theta - a, jnp.zeros(size)])
    return a + state[:size]


def relative_error(actual: Params, expected: Params) -> float:
    """`|actual - expected| / |expected|` over all leaves together."""
    flat, _ = jax.flatten_util.ravel_pytree(actual)
    wanted, _ = jax.flatten_util.ravel_pytree(expected)
    return float(jnp.linalg.norm(flat - wanted) / jnp.maximum(jnp.linalg.norm(wanted), 1e-300))


def finite_difference(function, params: Params, seed: int = 0, step: float = 5e-4) -> tuple[float, Params]:
    """The derivative of `function` along a random unit direction, by central differences of eighth order."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    direction = np.random.default_rng(seed).normal(size=flat.size)
    direction = jnp.asarray(direction / np.linalg.norm(direction), flat.dtype)
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    at = lambda h: float(function(unravel(flat + h * direction)))  # noqa: E731
    slope = sum(weight * (at(n * step) - at(-n * step)) for n, weight in weights.items()) / step
    return slope, unravel(direction)
