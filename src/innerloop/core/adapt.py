r"""The inner loop: the one function that everything else differentiates through."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from innerloop.core.adjoints import Mixed
from innerloop.core.checks import checked_with_state, require_float, require_kinds, require_learned, require_start
from innerloop.core.trees import merge, path_name, split
from innerloop.errors import InnerloopError
from innerloop.types import (
    Adapted,
    Adjoint,
    Batch,
    InnerGradient,
    InnerRule,
    InnerState,
    Loss,
    Meta,
    Params,
    PerStep,
    PRNGKey,
    Progress,
    Scalar,
    State,
    StatefulLoss,
)


def adapt(
    loss: Loss | StatefulLoss,
    meta: Meta,
    support: Batch | PerStep,
    key: PRNGKey,
    *,
    rule: InnerRule,
    steps: int,
    adjoint: Adjoint = Mixed(),
    trajectory: bool = False,
    progress: Progress = None,
    start: InnerState | None = None,
) -> Adapted:
    r"""Adapt the initialisation to one task by `steps` gradient updates on its support set.

    With the rule's update $u$ and state $s$ (momentum, say),

    $$ (\theta_{t+1}, s_{t+1}) = u\bigl(\theta_t, s_t, \nabla L(\theta_t, \text{support})\bigr),
       \qquad t = 0, \dots, \text{steps} - 1 . $$

    A `StatefulLoss` hands a state of its own from step to step, $(L_t, h_{t+1}) = L(\theta_t, \text{support}, h_t)$,
    through which derivatives flow as well.

    The function is pure: it works under `jit`, `vmap`, `grad` and `shard_map`, and is differentiable in `meta`, in
    `support` and in whatever `loss` closes over, as `adjoint` says; what an adjoint has no derivative of it refuses.

    Args:
        loss: the inner loss of one task, `(params, batch, key) -> (scalar, metrics)`, or a `StatefulLoss`.
        meta: the initialisation and the rule's parameters.
        support: one batch, used at every step, or `PerStep` with one batch for each.
        key: randomness for the loss (dropout, say); step `t` gets `fold_in(key, t)`.
        rule: what one update is, and which leaves it changes.
        steps: number of updates, at least 0.
        adjoint: how derivatives flow back through the loop.
        trajectory: also return the parameters after every step.
        progress: the share of training done, from 0 to 1, for an adjoint that changes over training.
        start: go on from the end of another call, `adapted.end`, instead of the initialisation: `m` steps and then `n`
            are `m + n` steps. Leaves that are not adapted, and the rule's parameters, are those of `meta`.

    Returns:
        The adapted parameters with the support loss and metrics before each update.

    Raises:
        InnerloopError: for a negative number of steps, a `PerStep` support of another length, a loss that is not a
            scalar, a rule that adapts a leaf without gradient, a state that changes its structure or shape, or a value
            of the wrong kind.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, arXiv 1703.03400.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import Meta, adapt
        >>> from innerloop.core import rules
        >>> loss = lambda params, batch, key: (jnp.mean((params * batch["x"] - batch["y"]) ** 2), {})
        >>> support = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([3.0, 6.0])}
        >>> rule = rules.sgd(0.1)
        >>> theta = jnp.array(0.0)
        >>> adapted = adapt(loss, Meta(theta, rule.init(theta)), support, jax.random.key(0), rule=rule, steps=3)
        >>> print(f"{adapted.params:.3f}", adapted.losses.round(2))
        2.625 [22.5   5.62  1.41]
    """
    require_kinds(meta, rule, steps, adjoint, key)
    require_learned(meta, rule)
    fast, fixed = split(meta.params, rule.adapts(meta.params))
    require_float(fast)
    require_start(start, fast)
    stateful = checked_with_state(loss)

    def inner_loss(fast: Params, z: tuple[Params, Batch, PRNGKey, State]) -> tuple[Any, Any]:
        fixed, batch, key, state = z
        value, metrics, state = stateful.loss(merge(fast, fixed), batch, key, state)
        return value, (state, metrics)

    def update(gradient: InnerGradient, carry: Any, x: Any) -> tuple[Any, tuple[Scalar, Any]]:
        fast, kept, state = carry
        step, batch = x
        batch = support if batch is None else batch
        (value, (state, metrics)), gradients = gradient(fast, (fixed, batch, jax.random.fold_in(key, step), state))
        updates, kept = rule.transform(meta.rule, step).update(gradients, kept, fast)
        fast = optax.apply_updates(fast, updates)
        return (fast, kept, state), (value, (lax.stop_gradient(metrics), (fast, state) if trajectory else None))

    if start is None:
        start = beginning(loss, meta, rule)
    carry = start.params, start.rule, start.state
    xs = start.step + jnp.arange(steps), _per_step(support, steps)
    run = adjoint.run(update, inner_loss, carry, xs, progress)
    (final, kept, state), (metrics, path) = run.carry, run.outputs
    states = None
    if trajectory:
        first = start.params, start.state
        path, states = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), first, path)
        every = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps + 1, *jnp.shape(leaf))), fixed)
        path = merge(path, every)
    end = InnerState(final, kept, state, start.step + steps)
    return Adapted(merge(final, fixed), run.losses, metrics, path, run.diagnostics, states, end)


def beginning(loss: Loss | StatefulLoss, meta: Meta, rule: InnerRule) -> InnerState:
    """Where an inner loop starts unless told otherwise: at the initialisation."""
    fast, _ = split(meta.params, rule.adapts(meta.params))
    return InnerState(fast, rule.transform(meta.rule, 0).init(fast), checked_with_state(loss).init(meta.params), 0)


def _per_step(support: Batch | PerStep, steps: int) -> Batch | None:
    """What `support` has for each step, or `None` where one batch serves all."""
    if not isinstance(support, PerStep):
        return None
    for path, leaf in jax.tree.leaves_with_path(support.batches):
        if jnp.shape(leaf)[:1] != (steps,):
            raise InnerloopError(
                f"PerStep support has shape {list(jnp.shape(leaf))} at {path_name(path) or 'its leaf'}, "
                f"but {steps} inner steps need a leading axis of {steps}."
            )
    return support.batches
