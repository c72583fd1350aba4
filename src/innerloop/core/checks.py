"""What users hand over, checked where it comes in: each mistake is one sentence, not a failure deep inside."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.core.trees import is_differentiable, path_name
from innerloop.errors import InnerloopError
from innerloop.types import Adjoint, Batch, InnerRule, Loss, Meta, Params, PRNGKey


def require_kinds(meta: Any, rule: Any, steps: Any, adjoint: Any) -> None:
    """Refuse values of the wrong kind before they fail deep inside.

    Raises:
        InnerloopError: naming the argument and what was given.
    """
    require_adjoint(adjoint)
    if not isinstance(rule, InnerRule):
        raise InnerloopError(
            f"rule must be an InnerRule, such as rules.sgd(0.01) or rules.from_optax(optimizer), not {_kind(rule)}."
        )
    if not isinstance(meta, Meta):
        raise InnerloopError(f"meta must be Meta(params, rule.init(params)), not {_kind(meta)}.")
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise InnerloopError(f"steps must be a whole number known in advance, not {_kind(steps)}.")
    if steps < 0:
        raise InnerloopError(f"adapt cannot take steps={steps} inner steps; use 0 or more.")


def require_adjoint(value: Any) -> None:
    """Refuse what is no adjoint, above all a class in the place of its instance.

    Raises:
        InnerloopError: naming what was given.
    """
    if isinstance(value, type) or not isinstance(value, Adjoint):
        given = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise InnerloopError(f"An adjoint is a value such as Mixed() or FirstOrder(), not {given}.")


def checked(loss: Loss) -> Loss:
    """The same loss, which says in one sentence when it does not return `(scalar, metrics)`."""

    def checked_loss(params: Params, batch: Batch, key: PRNGKey) -> tuple[Any, Any]:
        result = loss(params, batch, key)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise InnerloopError(f"The loss must return (scalar, dict of metrics), not {_kind(result)}.")
        value, metrics = result
        if not isinstance(metrics, dict):
            raise InnerloopError(
                f"The loss must return (scalar, dict of metrics), not {_kind(metrics)} as its metrics."
            )
        for name, metric in {"loss": value, **metrics}.items():
            for leaf in jax.tree.leaves(metric, is_leaf=lambda leaf: leaf is None):
                if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
                    raise InnerloopError(f"The loss returned {_kind(leaf)} as its {name!r}; it must be an array.")
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise InnerloopError(
                f"The loss must return a floating-point scalar, not {jnp.result_type(value)}{list(jnp.shape(value))}; "
                "take its mean over the examples."
            )
        return value, metrics

    return checked_loss


def require_float(fast: Params) -> None:
    """Refuse to adapt leaves that have no gradient.

    Raises:
        InnerloopError: naming the first of them.
    """
    for path, leaf in jax.tree.leaves_with_path(fast):
        if not is_differentiable(leaf):
            raise InnerloopError(
                f"The inner rule adapts the parameter {path_name(path)} of type {jnp.result_type(leaf)}, "
                "which has no gradient; leave it out with rules.masked."
            )


def _kind(value: Any) -> str:
    if isinstance(value, jax.Array):
        return f"an array {value.dtype}{list(value.shape)}"
    return repr(value) if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
