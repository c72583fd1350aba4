r"""Inner rules: what one update of the inner loop is.

A rule builds an `optax.GradientTransformation` from its parameters and the step index. Because the parameters are data,
the outer loop can learn them; because the result is optax, any optax optimiser is an inner optimiser.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from innerloop.errors import InnerloopError
from innerloop.trees import differentiable, is_differentiable, path_name
from innerloop.types import InnerRule, Mask, Params, RuleParams, Step

Where = Callable[[str, Any], bool]
"""`(path, leaf) -> adapt it?`, with paths such as `"conv1/kernel"`."""


def sgd(learning_rate: float) -> InnerRule:
    r"""Gradient descent with a constant step: $\theta' = \theta - \alpha \nabla L(\theta)$.

    Args:
        learning_rate: the step size $\alpha$, positive.

    Returns:
        The rule of MAML. It learns nothing.

    Raises:
        InnerloopError: if the step size is negative or not finite.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, equation 1.

    Example:
        >>> from innerloop import rules
        >>> rules.sgd(0.01).init({"w": 1.0})
        ()
    """
    return from_optax(optax.sgd(_step_size(learning_rate)))


def from_optax(optimizer: optax.GradientTransformation) -> InnerRule:
    r"""Any optax optimiser inside, with its state started afresh for each task.

    Adaptive optimisers divide by $\sqrt{\nu}$, whose derivative at a zero gradient is infinite. Give them a positive
    `eps_root` (`optax.adam(1e-3, eps_root=1e-8)`), or exact meta-gradients come out as NaN.

    Args:
        optimizer: for example `optax.adam(1e-3, eps_root=1e-8)`, `optax.sgd(0.1, momentum=0.9)` or a chain.

    Returns:
        A rule that learns nothing.
    """
    return InnerRule(init=lambda params: (), transform=lambda rule, step: optimizer, adapts=differentiable)


def learned(make: Callable[[RuleParams], optax.GradientTransformation], initial: RuleParams) -> InnerRule:
    """An optax optimiser whose hyperparameters the outer loop learns.

    Args:
        make: builds the optimiser from the hyperparameters; they arrive as arrays that carry gradients.
        initial: the hyperparameters to start from, a pytree of numbers.

    Returns:
        A rule with `initial` as its parameters.

    Example:
        >>> import optax
        >>> from innerloop import rules
        >>> rule = rules.learned(lambda h: optax.sgd(h["rate"], momentum=h["momentum"]), {"rate": 0.1, "momentum": 0.9})
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
    _step_size(learning_rate)

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


def masked(rule: InnerRule, where: Where) -> InnerRule:
    """The same rule on some of the leaves. The others are shared by all tasks, and no gradient is taken for them.

    Args:
        rule: the rule to restrict.
        where: `(path, leaf) -> bool`, true for the leaves that the inner loop adapts; it restricts a mask already
            there.

    Returns:
        The restricted rule; its own parameters cover the adapted leaves alone.

    Raises:
        InnerloopError: when used, if no leaf is left; the message lists the paths.

    Example:
        >>> from innerloop import rules
        >>> head_only = rules.masked(rules.sgd(0.1), lambda path, leaf: path.startswith("head/"))
    """

    def adapts(params: Params) -> Mask:
        mask = jax.tree.map_with_path(
            lambda path, leaf, before: bool(before) and where(path_name(path), leaf), params, rule.adapts(params)
        )
        if not any(jax.tree.leaves(mask)):
            paths = ", ".join(path_name(path) for path, _ in jax.tree.leaves_with_path(params))
            raise InnerloopError(f"The inner rule's mask leaves nothing to adapt; the parameters are: {paths}.")
        return mask

    def init(params: Params) -> RuleParams:
        return rule.init(jax.tree.map(lambda leaf, keep: leaf if keep else None, params, adapts(params)))

    return InnerRule(init=init, transform=rule.transform, adapts=adapts)


def _step_size(learning_rate: float) -> float:
    if not 0 <= learning_rate < float("inf"):
        raise InnerloopError(f"The inner learning rate is {learning_rate}; it must be a finite number of at least 0.")
    return learning_rate
