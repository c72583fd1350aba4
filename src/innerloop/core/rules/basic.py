"""Rules that learn nothing: gradient descent, and any optax optimiser."""

import optax

from innerloop.core.rules.guard import differentiated
from innerloop.core.trees import differentiable
from innerloop.errors import InnerloopError
from innerloop.types import InnerRule


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
        >>> from innerloop.core import rules
        >>> rules.sgd(0.01).init({"w": 1.0})
        ()
    """
    optimizer = optax.sgd(step_size(learning_rate))
    return InnerRule(init=lambda params: (), transform=lambda rule, step: optimizer, adapts=differentiable)


def from_optax(optimizer: optax.GradientTransformation) -> InnerRule:
    r"""Any optax optimiser inside, with its state started afresh for each task.

    Adaptive optimisers divide by $\sqrt{\nu}$, whose derivative at a zero gradient is infinite. Give them a positive
    `eps_root` (`optax.adam(1e-3, eps_root=1e-8)`), or exact meta-gradients come out as NaN. Clipping by a norm
    (`optax.clip_by_global_norm`, `optax.adaptive_grad_clip`) divides by it likewise; here it has its derivative, since
    it is handed 1e-12 in the place of zeros. Optimisers that search along a line, or need the loss's value otherwise
    (`optax.lbfgs`, `optax.polyak_sgd`), are refused.

    Args:
        optimizer: for example `optax.adam(1e-3, eps_root=1e-8)`, `optax.sgd(0.1, momentum=0.9)` or a chain.

    Returns:
        A rule that learns nothing.

    Raises:
        InnerloopError: if it is no optimiser, or needs more than gradients and parameters.
    """
    guarded = differentiated(optimizer)
    return InnerRule(init=lambda params: (), transform=lambda rule, step: guarded, adapts=differentiable)


def step_size(learning_rate: float) -> float:
    """The step size, if it can be one.

    Raises:
        InnerloopError: if it is negative or not finite.
    """
    if not 0 <= learning_rate < float("inf"):
        raise InnerloopError(f"The inner learning rate is {learning_rate}; it must be a finite number of at least 0.")
    return learning_rate
