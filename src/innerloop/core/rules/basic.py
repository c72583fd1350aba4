"""Rules that learn nothing: gradient descent, and any optax optimiser."""

import jax
import jax.numpy as jnp
import optax

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
    return from_optax(optax.sgd(step_size(learning_rate)))


def from_optax(optimizer: optax.GradientTransformation) -> InnerRule:
    r"""Any optax optimiser inside, with its state started afresh for each task.

    Adaptive optimisers divide by $\sqrt{\nu}$, whose derivative at a zero gradient is infinite. Give them a positive
    `eps_root` (`optax.adam(1e-3, eps_root=1e-8)`), or exact meta-gradients come out as NaN. So do those of
    `optax.clip_by_global_norm` and `optax.adaptive_grad_clip` where a gradient or a parameter is zero, since they
    divide by norms: use `rules.bounded` in their place.

    Args:
        optimizer: for example `optax.adam(1e-3, eps_root=1e-8)`, `optax.sgd(0.1, momentum=0.9)` or a chain.

    Returns:
        A rule that learns nothing.

    Raises:
        InnerloopError: if the optimiser needs more than gradients, as those that search along a line do.
    """
    if _needs_the_loss(optimizer):
        raise InnerloopError(
            "This optimiser needs the loss at every update (value=), as a line search does, and the inner loop gives "
            "it gradients alone; take one without a search, or iMAML with Implicit(line_search=True)."
        )
    return InnerRule(init=lambda params: (), transform=lambda rule, step: optimizer, adapts=differentiable)


def _needs_the_loss(optimizer: optax.GradientTransformation) -> bool:
    try:
        jax.eval_shape(lambda x: optimizer.update(x, optimizer.init(x), x), jnp.zeros(1))
    except TypeError as error:
        return "required keyword-only argument" in str(error) and "'value'" in str(error)
    except Exception:  # a transformation for parameters of one structure alone, which is not known here
        return False
    return False


def step_size(learning_rate: float) -> float:
    """The step size, if it can be one.

    Raises:
        InnerloopError: if it is negative or not finite.
    """
    if not 0 <= learning_rate < float("inf"):
        raise InnerloopError(f"The inner learning rate is {learning_rate}; it must be a finite number of at least 0.")
    return learning_rate
