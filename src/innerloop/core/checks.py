"""What users hand over, checked where it comes in: each mistake is one sentence, not a failure deep inside."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from innerloop.core.trees import is_differentiable, path_name
from innerloop.errors import InnerloopError
from innerloop.types import (
    Adjoint,
    Batch,
    InnerRule,
    InnerState,
    Loss,
    Meta,
    Metrics,
    Params,
    PRNGKey,
    QueryLoss,
    Scalar,
    State,
    StatefulLoss,
    Task,
)


def require_kinds(meta: Any, rule: Any, steps: Any, adjoint: Any, key: Any) -> None:
    """Refuse values of the wrong kind before they fail deep inside.

    Raises:
        InnerloopError: naming the argument and what was given.
    """
    require_adjoint(adjoint)
    require_rule(rule)
    if not isinstance(meta, Meta):
        raise InnerloopError(f"meta must be Meta(params, rule.init(params)), not {_kind(meta)}.")
    require_key(key)
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise InnerloopError(f"steps must be a whole number known in advance, not {_kind(steps)}.")
    if steps < 0:
        raise InnerloopError(f"adapt cannot take steps={steps} inner steps; use 0 or more.")


def require_rule(rule: Any) -> None:
    """Refuse what is no inner rule, above all an optax optimiser in its place.

    Raises:
        InnerloopError: naming what was given.
    """
    if not isinstance(rule, InnerRule):
        raise InnerloopError(
            f"rule must be an InnerRule, such as rules.sgd(0.01) or rules.from_optax(optimizer), not {_kind(rule)}."
        )


def require_learned(meta: Meta, rule: InnerRule) -> None:
    """Refuse a `Meta` that does not hold what the rule learns.

    Raises:
        InnerloopError: naming what is missing.
    """
    if jax.tree.leaves(meta.rule):
        return
    wanted = _shapes(jax.eval_shape(rule.init, meta.params))
    if wanted:
        raise InnerloopError(
            f"This rule learns {len(wanted)} arrays of its own, but meta.rule holds none; make it with "
            "Meta(params, rule.init(params))."
        )


def require_optimizer(optimizer: Any) -> None:
    """Refuse what is no optax optimiser.

    Raises:
        InnerloopError: naming what was given.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InnerloopError(f"optimizer must be an optax optimiser, such as optax.adam(1e-3), not {_kind(optimizer)}.")


def require_key(key: Any) -> None:
    """Refuse what is no single random key, above all a seed in its place.

    Raises:
        InnerloopError: naming what was given.
    """
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if (typed and not key.shape) or (key.dtype == np.uint32 and key.ndim == 1):
            return
        if typed:
            raise InnerloopError(f"key is {list(key.shape)} keys; one is needed, such as jax.random.key(0).")
    raise InnerloopError(f"key must be a random key, such as jax.random.key(0), not {_kind(key)}.")


def require_tasks(tasks: Any, function: str) -> int:
    """The number of tasks that are stacked along the leading axis.

    Args:
        tasks: a `Task` with leaves `[tasks, ...]`.
        function: which function was given them, for the message.

    Raises:
        InnerloopError: if it is no `Task`, or its leaves do not agree in their leading axis.
    """
    if not isinstance(tasks, Task):
        raise InnerloopError(
            f"{function} takes Task(support, query) with tasks stacked along a leading axis, not {_kind(tasks)}."
        )
    numbers: dict[int, str] = {}
    for path, leaf in jax.tree.leaves_with_path(tasks):
        shape = jnp.shape(leaf)
        if not shape:
            raise InnerloopError(
                f"{function}: {path_name(path)} has no axis of tasks; stack tasks along a leading one."
            )
        numbers.setdefault(shape[0], f"{path_name(path)} {list(shape)}")
    if len(numbers) != 1:
        shown = " and ".join(list(numbers.values())[:2]) or "no arrays"
        raise InnerloopError(
            f"{function} needs tasks stacked along the leading axis of all that they hold, but got {shown}; a single "
            "task needs a leading axis of 1 (jax.tree.map(lambda leaf: leaf[None], task))."
        )
    number = next(iter(numbers))
    if not number:
        raise InnerloopError(f"{function} got 0 tasks; give at least one.")
    return number


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
        _require_values(*result)
        return result

    return checked_loss


def checked_with_state(loss: Loss | StatefulLoss) -> StatefulLoss:
    """The same loss with a state, `None` if it has none, which says in one sentence what it returns that cannot be.

    Raises:
        InnerloopError: when used, if the state changes its structure, or a leaf its shape or type.
    """
    if not isinstance(loss, StatefulLoss):
        plain = checked(loss)
        return StatefulLoss(lambda params, batch, key, state: (*plain(params, batch, key), None), lambda params: None)

    def checked_loss(params: Params, batch: Batch, key: PRNGKey, state: State) -> tuple[Any, Any, Any]:
        result = loss.loss(params, batch, key, state)
        if not (isinstance(result, tuple) and len(result) == 3):
            raise InnerloopError(
                f"The loss of a StatefulLoss must return (scalar, dict of metrics, state), not {_kind(result)}."
            )
        value, metrics, after = result
        _require_values(value, metrics)
        _require_same_state(state, after)
        return value, metrics, after

    return StatefulLoss(checked_loss, lambda params: jax.tree.map(_as_array, loss.init(params)))


def judged(loss: Loss | StatefulLoss, end: State) -> QueryLoss:
    """A loss as `(params, batch, key, state) -> (scalar, metrics)`, with the state at the end of the loop by default.

    Raises:
        InnerloopError: when used, if it needs a state and the inner loss hands on none.
    """
    stateful = checked_with_state(loss)

    def query_loss(params: Params, batch: Batch, key: PRNGKey, state: State = None) -> tuple[Scalar, Metrics]:
        state = end if state is None else state
        if state is None and isinstance(loss, StatefulLoss):
            raise InnerloopError(
                "The query loss needs a state, but the inner loss hands on none; make the inner loss a StatefulLoss."
            )
        value, metrics, _ = stateful.loss(params, batch, key, state)
        return value, metrics

    return query_loss


def require_start(start: Any, fast: Params) -> None:
    """Refuse to go on from what is not the end of an inner loop on these parameters.

    Raises:
        InnerloopError: naming what was given, or the leaf that differs.
    """
    if start is None:
        return
    if not isinstance(start, InnerState):
        raise InnerloopError(f"start must be where another inner loop ended, adapted.end, not {_kind(start)}.")
    found, wanted = _shapes(start.params), _shapes(fast)
    if found != wanted:
        differing = ", ".join(sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)))
        raise InnerloopError(
            f"start comes from an inner loop on other parameters than the rule adapts here; these differ: {differing}."
        )


def _require_values(value: Any, metrics: Any) -> None:
    if not isinstance(metrics, dict):
        raise InnerloopError(f"The loss must return (scalar, dict of metrics), not {_kind(metrics)} as its metrics.")
    for name, metric in {"loss": value, **metrics}.items():
        for leaf in jax.tree.leaves(metric, is_leaf=lambda leaf: leaf is None):
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
                raise InnerloopError(f"The loss returned {_kind(leaf)} as its {name!r}; it must be an array.")
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise InnerloopError(
            f"The loss must return a floating-point scalar, not {jnp.result_type(value)}{list(jnp.shape(value))}; "
            "take its mean over the examples."
        )


def _require_same_state(before: State, after: State) -> None:
    found, wanted = _shapes(after), _shapes(before)
    if found.keys() != wanted.keys() or jax.tree.structure(before) != jax.tree.structure(after):
        raise InnerloopError(
            f"The loss was handed a state with the leaves {', '.join(wanted) or 'none'} and returned one with "
            f"{', '.join(found) or 'none'}; its structure must stay the same from step to step."
        )
    for name, kind in wanted.items():
        if found[name] != kind:
            raise InnerloopError(
                f"The loss was handed a state with {kind} at {name} and returned {found[name]}; shape and type must "
                "stay the same from step to step."
            )


def _shapes(tree: Any) -> dict[str, str]:
    """Type and shape of every leaf by its path."""
    return {
        path_name(path) or "its leaf": f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _as_array(leaf: Any) -> Any:
    """An array with a type of its own, which a scan can hand on."""
    return leaf if isinstance(leaf, jax.Array) and not leaf.weak_type else jnp.asarray(leaf, jnp.result_type(leaf))


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
