r"""From rewards to what an objective weighs actions by: returns, baselines, advantages. One task at a time.

Arrays are `[rows, time]`, as one task's `Rollouts` has them. Sums run back in time and are cut where an episode ends,
so it does not matter whether a row holds one episode or many.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import PyTree

from innerloop.errors import InnerloopError
from innerloop.models import Model
from innerloop.rl.types import Rollouts
from innerloop.types import Scalar

Value: TypeAlias = Callable[[Array, Array], Array]
"""`(observation [..., observation], t [...]) -> value [...]`"""


class Experience(NamedTuple):
    """One task's steps as the objectives see them, `[rows, time]`: the `Batch` of `innerloop.rl.objectives`.

    Attributes:
        observation: before the action.
        action: the action.
        info: the distribution it was drawn from, and its `log_prob`.
        t: number of the step in its episode.
        weight: 1 for a step, 0 for padding, which so never enters a mean.
        advantage: of the action, standardised.
        reward: of the step alone, discounted to the start of its episode, in units of the advantages' deviation.
        value: the baseline, likewise.
        scale: the deviation that the advantages were divided by, a scalar.
    """

    observation: Array
    action: Array
    info: PyTree[Array]
    t: Array
    weight: Array
    advantage: Array
    reward: Array
    value: Array
    scale: Array


@runtime_checkable
class Baseline(Protocol):
    """Estimates what is still to be earned, from one task's episodes alone: nothing is carried from task to task."""

    def __call__(self, rollouts: Rollouts, returns: Array, /) -> Value: ...


Advantages: TypeAlias = Callable[[Rollouts], Experience]
"""From one task's rollouts, `[rows, time, ...]`, to its experience."""


def decayed_sum(x: Array, decay: Array, *, reverse: bool = False) -> Array:
    r"""$y_t = x_t + d_t\, y_{t-1}$ along the last axis, or with `reverse` $y_t = x_t + d_t\, y_{t+1}$.

    A decay of 0 cuts the sum. The work is logarithmic in time, and derivatives of all orders exist.

    Args:
        x: `[..., time]`.
        decay: of the same shape.
        reverse: whether to sum back in time.
    """

    def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], second[1] + second[0] * first[1]

    return lax.associative_scan(combine, (decay, x), reverse=reverse, axis=x.ndim - 1)[1]


def discounted_returns(reward: Array, last: Array, discount: float) -> Array:
    r"""What is earned from each step on, $G_t = r_t + \gamma G_{t+1}$, within its episode.

    Args:
        reward: `[..., time]`.
        last: whether an episode ends with the step, `[..., time]`.
        discount: $\gamma$.

    Example:
        >>> import jax.numpy as jnp
        >>> last = jnp.array([False, True, False, True])
        >>> print(discounted_returns(jnp.ones(4), last, 0.5))
        [1.5 1.  1.5 1. ]
    """
    return decayed_sum(reward, jnp.where(last, 0.0, discount), reverse=True)


def generalised_advantages(
    reward: Array, value: Array, next_value: Array, last: Array, discount: float, trace: float
) -> Array:
    r"""GAE(λ): $A_t = \delta_t + \gamma\lambda A_{t+1}$ with $\delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)$.

    Args:
        reward: `[..., time]`.
        value: the baseline before each action, `[..., time]`.
        next_value: the baseline after it, 0 where nothing more is earned, `[..., time]`.
        last: whether an episode ends with the step, `[..., time]`.
        discount: $\gamma$.
        trace: $\lambda$; 1 gives $G_t - V(s_t)$.

    Reference:
        Schulman et al.: High-Dimensional Continuous Control Using Generalized Advantage Estimation, 2016, arXiv
        1506.02438.
    """
    errors = reward + discount * next_value - value
    return decayed_sum(errors, jnp.where(last, 0.0, discount * trace), reverse=True)


def advantages(
    baseline: Baseline | None = None,
    *,
    discount: float = 0.99,
    trace: float = 1.0,
    bootstrap: bool = False,
) -> Advantages:
    r"""How rollouts become experience: fit the baseline, take GAE(λ), and standardise over the task's steps.

    The baseline is fitted on the batch that it then serves, as in MAML's published results. Standardising subtracts the
    mean and divides by the population deviation plus $10^{-8}$, so the scale of rewards does not matter.

    Args:
        baseline: what is subtracted; `linear_features()` unless given.
        discount: $\gamma$.
        trace: $\lambda$.
        bootstrap: whether an episode that was broken off, at the horizon say, would have earned its baseline
            afterwards, rather than nothing. Needs rollouts with `next_observation`.

    Returns:
        `rollouts -> Experience` of one task.

    Raises:
        InnerloopError: if the discount or trace is not within 0..1, or for `bootstrap` without `next_observation`.
    """
    for name, number in {"discount": discount, "trace": trace}.items():
        if not 0 <= number <= 1:
            raise InnerloopError(f"The {name} is {number}; it must be between 0 and 1.")
    fit = baseline or linear_features()

    def experience(rollouts: Rollouts) -> Experience:
        weight = rollouts.mask.astype(rollouts.reward.dtype)
        reward, last = rollouts.reward * weight, jnp.asarray(rollouts.last)
        estimate = fit(rollouts, discounted_returns(reward, last, discount))
        value = weight * estimate(rollouts.observation, rollouts.t)
        next_value = jnp.where(last, 0.0, jnp.roll(value, -1, axis=-1))
        if bootstrap:
            if rollouts.next_observation is None:
                raise InnerloopError("bootstrap=True needs rollouts that were collected with next_observation=True.")
            after = estimate(rollouts.next_observation, rollouts.t + 1)
            next_value = jnp.where(rollouts.truncated, after, next_value)
        advantage = generalised_advantages(reward, value, next_value, last, discount, trace)
        advantage, scale = standardise(advantage, weight)
        present = discount**rollouts.t * weight / scale
        return Experience(
            rollouts.observation, rollouts.action, rollouts.info, rollouts.t, weight, advantage,
            reward * present, value * present, scale,
        )  # fmt: skip

    return experience


def standardise(values: Array, weight: Array) -> tuple[Array, Scalar]:
    """The values less their mean, divided by their population deviation + 1e-8; and that divisor. Padding gives 0."""
    count = jnp.maximum(weight.sum(), 1.0)
    centred = (values - (values * weight).sum() / count) * weight
    scale = jnp.sqrt((centred**2).sum() / count) + 1e-8
    return centred / scale, scale


def no_baseline() -> Baseline:
    """Subtract nothing."""
    return lambda rollouts, returns: lambda observation, t: jnp.zeros(t.shape, observation.dtype)


def linear_features(ridge: float = 1e-5) -> Baseline:
    r"""Ridge regression of the returns on polynomial features of observation and time, the baseline of the paper.

    $$ \phi(s, t) = \bigl(\bar s,\ \bar s^2,\ \tau,\ \tau^2,\ \tau^3,\ 1\bigr), \qquad
       \bar s = \operatorname{clip}(s, -10, 10),\quad \tau = t / 100 , $$

    fitted by $\min_w \lVert \Phi w - G\rVert^2 + \text{ridge}\,\lVert w\rVert^2$. It is solved through the normal
    equations in double precision, whatever JAX is set to. An orthogonal transformation would be as accurate in single
    precision, but for the 254 features of Ant it takes 3 times as long on a CPU.

    Args:
        ridge: positive.

    Raises:
        InnerloopError: if the ridge is not positive.

    Reference:
        Duan et al.: Benchmarking Deep Reinforcement Learning for Continuous Control, 2016, arXiv 1604.06778.
    """
    if not ridge > 0:
        raise InnerloopError(f"The baseline's ridge is {ridge}; it must be positive.")

    def features(observation: Array, t: Array) -> Array:
        state = jnp.clip(observation, -10.0, 10.0)
        time = t[..., None].astype(state.dtype) / 100.0
        return jnp.concatenate([state, state**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)

    def fit(rollouts: Rollouts, returns: Array) -> Value:
        weight = rollouts.mask.astype(returns.dtype)
        rows = features(rollouts.observation, rollouts.t) * weight[..., None]
        w = _ridge_regression(rows.reshape(-1, rows.shape[-1]), (returns * weight).reshape(-1), ridge)
        return lambda observation, t: features(observation, t) @ w

    return fit


def _ridge_regression(rows: Array, target: Array, ridge: float) -> Array:
    """The coefficients, `[features]`, in the precision of the rows `[examples, features]`."""
    with jax.enable_x64(True):
        double = np.dtype("float64")
        phi, wanted = lax.convert_element_type(rows, double), lax.convert_element_type(target, double)
        gram = phi.T @ phi + jnp.asarray(ridge, double) * jnp.eye(rows.shape[-1], dtype=double)
        # Columns of norm 1: features of very different size, as t and t³, are otherwise lost in rounding.
        scale = lax.rsqrt(jnp.diagonal(gram))
        solved = jnp.linalg.solve(gram * scale[:, None] * scale, scale * (phi.T @ wanted)) * scale
        return lax.convert_element_type(solved, rows.dtype)


def value_network(
    model: Model,
    *,
    steps: int = 100,
    optimizer: optax.GradientTransformation = optax.adam(1e-2),  # noqa: B008
    seed: int = 0,
) -> Baseline:
    """A network fitted to the returns, afresh for each task and batch: neither it nor its moments leak between tasks.

    Args:
        model: `[examples, observation + 1] -> [examples, 1]`; the last input is the time in hundreds of steps.
        steps: of the optimiser, each on all of the task's steps.
        optimizer: any optax optimiser.
        seed: of the network's initial parameters.
    """

    def apply(params: PyTree[Array], observation: Array, t: Array) -> Array:
        inputs = jnp.concatenate([observation, t[..., None].astype(observation.dtype) / 100.0], axis=-1)
        return model.apply(params, inputs.reshape(-1, inputs.shape[-1])).reshape(t.shape)

    def fit(rollouts: Rollouts, returns: Array) -> Value:
        weight = rollouts.mask.astype(returns.dtype)
        count = weight.sum()
        target, scale = standardise(returns, weight)
        centre = (returns * weight).sum() / count

        def error(params: PyTree[Array]) -> Scalar:
            return jnp.sum(weight * (apply(params, rollouts.observation, rollouts.t) - target) ** 2) / count

        def step(carry: PyTree[Array], _: None) -> tuple[PyTree[Array], None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(error)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = model.init(jax.random.key(seed))
        (params, _), _ = lax.scan(step, (params, optimizer.init(params)), length=steps)
        return lambda observation, t: centre + scale * apply(params, observation, t)

    return fit
