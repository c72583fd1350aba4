r"""Rules that the outer loop learns something of: step sizes, hyperparameters, preconditioners."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import optax

from innerloop.core.rules.basic import step_size
from innerloop.core.trees import differentiable, is_differentiable
from innerloop.errors import InnerloopError
from innerloop.types import InnerRule, Params, RuleParams, Step


def trainable(make: Callable[[RuleParams], optax.GradientTransformation], initial: RuleParams) -> InnerRule:
    """An optax optimiser whose hyperparameters the outer loop learns.

    Args:
        make: builds the optimiser from the hyperparameters; they arrive as arrays that carry gradients.
        initial: the hyperparameters to start from, a pytree of numbers.

    Returns:
        A rule with `initial` as its parameters.

    Example:
        >>> import optax
        >>> from innerloop.core import rules
        >>> make = lambda h: optax.sgd(h["rate"], momentum=h["momentum"])
        >>> rule = rules.trainable(make, {"rate": 0.1, "momentum": 0.9})
    """

    def init(params: Params) -> RuleParams:
        return jax.tree.map(
            lambda leaf: jnp.array(leaf, float), initial
        )  # new arrays, since a training step may donate them

    return InnerRule(init=init, transform=lambda rule, step: make(rule), adapts=differentiable)


def meta_sgd(learning_rate: float) -> InnerRule:
    r"""A learned step size for every single parameter: $\theta' = \theta - \alpha \odot \nabla L(\theta)$.

    Args:
        learning_rate: the value at which every entry of $\alpha$ starts.

    Returns:
        A rule whose parameters have the structure of the adapted leaves.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Li et al.: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017, arXiv 1707.09835.
    """
    step_size(learning_rate)

    def transform(rates: RuleParams, step: Step) -> optax.GradientTransformation:
        scale = lambda gradients: jax.tree.map(lambda rate, g: -rate * g, rates, gradients)  # noqa: E731
        return optax.stateless(lambda gradients, _: scale(gradients))

    return InnerRule(
        init=lambda params: jax.tree.map(
            lambda leaf: jnp.full_like(leaf, learning_rate) if is_differentiable(leaf) else None, params
        ),
        transform=transform,
        adapts=differentiable,
    )


def per_layer_per_step(learning_rate: float, steps: int) -> InnerRule:
    r"""A learned step size for every array of parameters and every inner step:
    $\theta^l_{t+1} = \theta^l_t - \alpha^l_t \nabla_{\theta^l} L(\theta_t)$.

    At more steps than it learned the step sizes of the last one are used again. Where the outer loop uses Adam, whose
    step is the same for all it learns, scale its step for `Meta.rule` down (`optax.partition`) if it is not small
    beside `learning_rate`: step sizes that jump about let training diverge. The program does.

    Args:
        learning_rate: the value at which every $\alpha^l_t$ starts.
        steps: number of inner steps that have a step size of their own, at least 1.

    Returns:
        A rule whose parameters are an array `[steps]` for each adapted leaf.

    Raises:
        InnerloopError: if the step size is negative or not finite, or the number of steps is not positive.

    Reference:
        Antoniou, Edwards, Storkey: How to Train Your MAML, 2018, arXiv 1810.09502, section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from innerloop.core import rules
        >>> print(rules.per_layer_per_step(0.5, steps=2).init({"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}))
        {'bias': Array([0.5, 0.5], dtype=float32), 'kernel': Array([0.5, 0.5], dtype=float32)}
    """
    step_size(learning_rate)
    if steps < 1:
        raise InnerloopError(f"per_layer_per_step(steps={steps}) has nothing to learn; use 1 step or more.")

    def init(params: Params) -> RuleParams:
        rates = lambda leaf: jnp.full(steps, learning_rate, jnp.result_type(leaf)) if is_differentiable(leaf) else None  # noqa: E731
        return jax.tree.map(rates, params)

    def transform(rates: RuleParams, step: Step) -> optax.GradientTransformation:
        now = jnp.minimum(step, steps - 1)
        scale = lambda gradients: jax.tree.map(lambda rate, g: -rate[now] * g, rates, gradients)  # noqa: E731
        return optax.stateless(lambda gradients, _: scale(gradients))

    return InnerRule(init=init, transform=transform, adapts=differentiable, learned_steps=steps)


def alfa(learning_rate: float) -> InnerRule:
    r"""Step sizes and weight decay that a small network generates anew at every inner step from the task's state.

    For the arrays of parameters $l = 1, \dots, n$,

    $$ \theta^l_{t+1} = \beta^l_t\, \theta^l_t - \alpha^l_t\, \nabla_{\theta^l} L(\theta_t), \qquad
       \alpha^l_t = \alpha^l a^l_t, \quad \beta^l_t = \beta^l b^l_t, \qquad (a_t, b_t) = g(\tau_t), $$

    where $\tau_t$ are the means over each array of the parameters and of their gradient, $2n$ numbers, and $g$ is a
    network with two hidden layers of $2n$ units. It starts at $g = 1$, so that the rule starts as gradient descent.
    Learned are $g$ and the step sizes $\alpha^l$ and factors $\beta^l$.

    Args:
        learning_rate: the value at which every $\alpha^l$ starts.

    Returns:
        A rule whose parameters are the network $g$ and the $\alpha^l$ and $\beta^l$, each `[n]`.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Baik et al.: Meta-Learning with Adaptive Hyperparameters, 2020, arXiv 2011.00209.
    """
    step_size(learning_rate)

    def init(params: Params) -> RuleParams:
        leaves = [leaf for leaf in jax.tree.leaves(params) if is_differentiable(leaf)]
        n, dtype = len(leaves), jnp.result_type(*leaves)
        width = 2 * n
        first, second = jax.random.split(jax.random.key(0))  # any draw will do, as long as the units differ
        return {
            "rate": jnp.full(n, learning_rate, dtype),
            "keep": jnp.ones(n, dtype),
            "hidden1": jax.random.normal(first, (width, width), dtype) / jnp.sqrt(width).astype(dtype),
            "hidden2": jax.random.normal(second, (width, width), dtype) / jnp.sqrt(width).astype(dtype),
            "output": jnp.zeros((width, width), dtype),
        }

    def transform(rule: RuleParams, step: Step) -> optax.GradientTransformation:
        def update(gradients: Params, params: Params | None) -> Params:
            values, slopes = jax.tree.leaves(params), jax.tree.leaves(gradients)
            state = jnp.stack([jnp.mean(leaf) for leaf in (*values, *slopes)])
            for layer in ("hidden1", "hidden2"):
                state = jax.nn.relu(state @ rule[layer])
            a, b = jnp.split(1 + state @ rule["output"], 2)
            rates, keeps = rule["rate"] * a, rule["keep"] * b
            changes = [
                (keep - 1) * value - rate * g for value, g, rate, keep in zip(values, slopes, rates, keeps, strict=True)
            ]
            return jax.tree.unflatten(jax.tree.structure(gradients), changes)

        return optax.stateless(update)

    return InnerRule(init=init, transform=transform, adapts=differentiable)


def meta_curvature(learning_rate: float) -> InnerRule:
    r"""Gradient descent with a learned preconditioner: $\theta' = \theta - \alpha\, M(\nabla L(\theta))$.

    A gradient with the axes `[..., inputs, outputs]` is multiplied along its outputs by a matrix, along its inputs by a
    second one, and, where there are axes before these (the positions of a convolution's kernel), along them by a third:

    $$ M(G) = G \times_3 M_o \times_2 M_i \times_1 M_f . $$

    A vector has $M_o$ alone. All matrices start as the identity.

    Args:
        learning_rate: the step size $\alpha$.

    Returns:
        A rule whose parameters are the matrices of each adapted leaf.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Park, Oliva: Meta-Curvature, 2019, arXiv 1902.03356.
    """
    step_size(learning_rate)

    def merged(shape: Sequence[int]) -> tuple[int, ...]:
        """The shape with the axes before the last two in one; those of size 1 stay, for the sake of plainness."""
        return tuple(shape) if len(shape) <= 2 else (prod(shape[:-2]), *shape[-2:])

    def matrices(leaf: Any) -> list[Any] | None:
        sizes = merged(jnp.shape(leaf))
        return [jnp.eye(size, dtype=jnp.result_type(leaf)) for size in sizes] if is_differentiable(leaf) else None

    def precondition(gradient: Any, factors: list[Any]) -> Any:
        result = gradient.reshape(merged(gradient.shape))
        for axis, factor in enumerate(factors):
            result = jnp.moveaxis(jnp.tensordot(result, factor, (axis, 1)), -1, axis)
        return -learning_rate * result.reshape(gradient.shape)

    def transform(rule: RuleParams, step: Step) -> optax.GradientTransformation:
        return optax.stateless(lambda gradients, _: jax.tree.map(precondition, gradients, rule))

    return InnerRule(init=lambda params: jax.tree.map(matrices, params), transform=transform, adapts=differentiable)
