r"""The outer loop: the mean meta-gradient over a batch of tasks, and the optimiser's step along it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from innerloop.core.checks import require_key, require_optimizer, require_rule, require_tasks
from innerloop.core.finite import SKIPPED, updated_where
from innerloop.core.layout import Layout, map_over_tasks, mean_over_tasks
from innerloop.core.trees import differentiable, merge, split
from innerloop.errors import InnerloopError
from innerloop.types import InnerRule, Meta, MetaLoss, Metrics, Params, PRNGKey, Task, TaskDistribution


class MetaState(NamedTuple):
    """Everything that a meta-training run is: saved and restored, it continues to the same bits.

    Attributes:
        meta: what is learned.
        optimizer: the outer optimiser's state.
        step: number of meta-steps taken.
        key: the run's key; the tasks of step `t` derive from `fold_in(key, t)`, never from a generator's state.
    """

    meta: Meta
    optimizer: optax.OptState
    step: Array
    key: PRNGKey


class Skips(NamedTuple):
    """How many meta-steps were skipped, how many of these at the end, and the last one's number from 1 (0: none)."""

    number: Array
    in_a_row: Array
    last: Array

    @classmethod
    def none(cls) -> "Skips":
        """Before the first step."""
        zero = jnp.zeros((), jnp.int32)
        return cls(zero, zero, zero)

    def after(self, skipped: Array, step: Array) -> "Skips":
        """With one step more, after which the state counts `step`."""
        in_a_row = jnp.where(skipped, self.in_a_row + 1, 0)
        return Skips(self.number + skipped, in_a_row, jnp.where(skipped, step, self.last))


Diagnostics = Callable[[MetaState, Any], Metrics]
"""`(state, tasks) -> metrics`, computed where training is logged and not at every step."""


@runtime_checkable
class MetaStep(Protocol):
    """One meta-step: `(state, tasks) -> (state, metrics)`."""

    def __call__(self, state: MetaState, tasks: Any, /) -> tuple[MetaState, Metrics]: ...


def init(params: Params, rule: InnerRule, optimizer: optax.GradientTransformation, key: PRNGKey) -> MetaState:
    """The state before the first meta-step.

    Args:
        params: the initial parameters, any pytree; leaves without gradient (integers, keys) are carried along
            unchanged.
        rule: the inner rule, whose parameters are learned with the initialisation.
        optimizer: the outer optimiser.
        key: the run's key.

    Raises:
        InnerloopError: if the rule, the optimiser or the key is of another kind.
    """
    require_rule(rule)
    require_optimizer(optimizer)
    require_key(key)
    meta = Meta(params, rule.init(params))
    trainable, _ = split(meta, differentiable(meta))
    return MetaState(meta, optimizer.init(trainable), jnp.zeros((), jnp.int32), key)


def meta_gradient(
    meta_loss: MetaLoss, layout: Layout = Layout()
) -> Callable[[Meta, Task, PRNGKey], tuple[Meta, Metrics]]:
    r"""The meta-gradient $\frac1n \sum_i \nabla_\theta \mathcal{L}_i(\theta)$ of given tasks.

    Args:
        meta_loss: the meta-loss of one task, from `innerloop.meta_loss`.
        layout: how the tasks are laid out.

    Returns:
        `(meta, tasks, key) -> (gradient, metrics)`, tasks stacked along a leading axis, metrics averaged over them.
        Leaves of `meta` that have no gradient are `None` in it.

    Raises:
        InnerloopError: when used, if the tasks are not stacked, or the key is none.
    """

    def gradient(meta: Meta, tasks: Task, key: PRNGKey) -> tuple[Meta, Metrics]:
        number = require_tasks(tasks, "meta_gradient")
        require_key(key)
        trainable, constant = split(meta, differentiable(meta))

        def one(shared: Any, item: Any) -> tuple[Any, Metrics]:
            trainable, constant, key = shared
            task, index = item
            return meta_loss(merge(trainable, constant), task, jax.random.fold_in(key, index))

        try:
            return mean_over_tasks(one, layout)((trainable, constant, key), (tasks, jnp.arange(number)))
        except (TypeError, ValueError, IndexError) as error:
            if isinstance(error, InnerloopError) or not _is_one_task(meta_loss, meta, tasks, key):
                raise
            raise InnerloopError(
                f"meta_gradient was given a single task, whose {number} examples it takes for tasks; give it a leading "
                "axis of tasks (jax.tree.map(lambda leaf: leaf[None], task))."
            ) from error

    return gradient


def _is_one_task(meta_loss: MetaLoss, meta: Meta, task: Task, key: PRNGKey) -> bool:
    """Whether what was given as stacked tasks makes sense as one task."""
    try:
        jax.eval_shape(meta_loss, meta, task, key)
    except (TypeError, ValueError, IndexError):
        return False
    return True


def meta_step(
    meta_loss: MetaLoss,
    optimizer: optax.GradientTransformation,
    *,
    meta_batch: int,
    layout: Layout = Layout(),
    iterations: int | None = None,
    radius: float = 0.0,
    skip_nonfinite: bool = True,
) -> MetaStep:
    r"""One step of the outer loop, with the episodes sampled inside the compiled function.

    Args:
        meta_loss: the meta-loss of one task.
        optimizer: any optax optimiser; it updates the initialisation and the rule's parameters together.
        meta_batch: number of tasks in a step.
        layout: how they are laid out over devices and memory.
        iterations: number of meta-steps of the whole training, for a meta-loss that changes over it: step $t$ has the
            progress $t / \text{iterations}$.
        radius: take the meta-gradient where the meta-loss is largest, to first order, within this distance:
            at $\theta + \rho\, g / \lVert g\rVert$ with the meta-gradient $g$ at $\theta$ (sharpness-aware
            minimisation, which takes twice the time). 0: at $\theta$ itself.
        skip_nonfinite: leave out a step whose meta-gradient has no finite norm, as after the overflow of a single
            task's inner loop: what is learned and the optimiser's state stay as they are, the step is counted and the
            next one draws other tasks.

    Returns:
        `(state, tasks) -> (state, metrics)`, pure. `tasks` is a `TaskDistribution`, itself a pytree, so that its data
        is an argument of the compiled function and not a constant inside it. The metric `skipped` is 1 of a step that
        was left out, whose other metrics may be anything, and otherwise 0.

    Raises:
        InnerloopError: if the meta-batch is not positive, or smaller than the layout's shards or chunk, or if the
            radius is negative.
    """
    if not 0 <= radius < float("inf"):
        raise InnerloopError(f"The radius of the outer step is {radius}; it must be a number of at least 0.")
    if meta_batch < 1:
        raise InnerloopError(f"The meta-batch has {meta_batch} tasks; it needs at least 1.")
    layout.require(meta_batch)

    def one(shared: Any, index: Array) -> tuple[Any, Metrics]:
        trainable, constant, tasks, key, *progress = shared
        sample_key, task_key = jax.random.split(jax.random.fold_in(key, index))
        return meta_loss(merge(trainable, constant), sample_task(tasks, sample_key), task_key, *progress)

    gradient = mean_over_tasks(one, layout)

    def step(state: MetaState, tasks: TaskDistribution) -> tuple[MetaState, Metrics]:
        trainable, constant = split(state.meta, differentiable(state.meta))
        key = jax.random.fold_in(state.key, state.step)
        given = (constant, tasks, key) if iterations is None else (constant, tasks, key, state.step / iterations)
        gradients, metrics = gradient((trainable, *given), jnp.arange(meta_batch))
        if radius:
            reach = radius / jnp.maximum(optax.tree.norm(gradients), 1e-12)
            above = jax.tree.map(lambda x, g: x + reach * g, trainable, gradients)
            gradients, _ = gradient((above, *given), jnp.arange(meta_batch))
        norm = optax.tree.norm(gradients)
        metrics["gradient_norm"] = norm
        if skip_nonfinite:
            metrics[SKIPPED] = 1.0 - jnp.isfinite(norm)
        after = moved(state, gradients, optimizer, jnp.isfinite(norm) if skip_nonfinite else None)
        meta, optimizer_state = layout.keep_divided((after.meta, after.optimizer))
        return after._replace(meta=meta, optimizer=optimizer_state), metrics

    return step


def moved(
    state: MetaState, gradients: Any, optimizer: optax.GradientTransformation, usable: Array | None = None
) -> MetaState:
    """The state after a step of the optimiser along a meta-gradient, which counts but moves nothing if not `usable`."""
    trainable, constant = split(state.meta, differentiable(state.meta))

    def update(before: tuple[Any, optax.OptState]) -> tuple[Any, optax.OptState]:
        updates, optimizer_state = optimizer.update(gradients, before[1], before[0])
        return optax.apply_updates(before[0], updates), optimizer_state

    before = trainable, state.optimizer
    after = update(before) if usable is None else updated_where(usable, update, before)
    return MetaState(merge(after[0], constant), after[1], state.step + 1, state.key)


def finite_tasks(
    meta_loss: MetaLoss, *, meta_batch: int, layout: Layout = Layout(), iterations: int | None = None
) -> Callable[[MetaState, TaskDistribution], tuple[Array, Task]]:
    """Which tasks of the next meta-step have a finite gradient: finds those for which a step was skipped.

    Args:
        meta_loss: the meta-loss of one task.
        meta_batch: number of tasks in a step.
        layout: how they are laid out.
        iterations: number of meta-steps of the whole training, as `meta_step` was given it.

    Returns:
        `(state, tasks) -> (finite, drawn)`: booleans `[meta_batch]`, and the tasks that step draws, stacked.
    """

    def one(shared: Any, index: Array) -> tuple[Array, Task]:
        trainable, constant, tasks, key, *progress = shared
        sample_key, task_key = jax.random.split(jax.random.fold_in(key, index))
        task = sample_task(tasks, sample_key)
        loss = lambda trainable: meta_loss(merge(trainable, constant), task, task_key, *progress)  # noqa: E731
        gradient, _ = jax.grad(loss, has_aux=True)(trainable)
        return jnp.isfinite(optax.tree.norm(gradient)), task

    def finite(state: MetaState, tasks: TaskDistribution) -> tuple[Array, Task]:
        trainable, constant = split(state.meta, differentiable(state.meta))
        key = jax.random.fold_in(state.key, state.step)
        given = (constant, tasks, key) if iterations is None else (constant, tasks, key, state.step / iterations)
        return map_over_tasks(one, layout)((trainable, *given), jnp.arange(meta_batch))

    return finite


def sample_keys(state: MetaState, meta_batch: int) -> Array:
    """The keys from which the next meta-step draws its tasks, `[meta_batch]`."""
    key = jax.random.fold_in(state.key, state.step)
    return jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index))[0])(jnp.arange(meta_batch))


def diagnostics(
    of_task: Callable[[Meta, Task, PRNGKey], Metrics], *, num_tasks: int, layout: Layout = Layout()
) -> Diagnostics:
    """The mean over tasks of what is to be known of training now and then, for `repeat`.

    Args:
        of_task: `(meta, task, key) -> metrics` of one task, such as `innerloop.core.metagrad.implicit_diagnostics`.
        num_tasks: number of tasks, drawn anew at each step.
        layout: how they are laid out.
    """

    def one(shared: Any, index: Array) -> Metrics:
        meta, tasks, key = shared
        sample_key, task_key = jax.random.split(jax.random.fold_in(key, index))
        return of_task(meta, sample_task(tasks, sample_key), task_key)

    def means(state: MetaState, tasks: TaskDistribution) -> Metrics:
        shared = state.meta, tasks, jax.random.fold_in(state.key, state.step)
        values = map_over_tasks(one, layout)(shared, jnp.arange(num_tasks))
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), values)

    return means


def repeat(
    step: MetaStep, diagnostics: Diagnostics | None = None
) -> Callable[[MetaState, TaskDistribution, Array | int], tuple[MetaState, Metrics]]:
    """Many meta-steps in one dispatch.

    The number of steps is an argument of the compiled loop: any number runs in the same program, so the state after `n`
    steps has the same bits however the steps were grouped.

    Args:
        step: one meta-step.
        diagnostics: metrics of the state after the last step, which are computed once.

    Returns:
        `(state, tasks, num_steps) -> (state, metrics)`, metrics averaged over the steps (zero if there are none).
        Compile it with `jax.jit(..., donate_argnums=0)`. Where steps can be skipped, `skipped` is their number,
        `skipped_in_a_row` how many of them are the last ones without a step between, `last_skipped` the number of the
        last one, from 1 (0: none); the other metrics are means over the steps that were taken, NaN if none was.
    """

    one = jax.jit(step)  # traced once for shape and value

    def steps(state: MetaState, tasks: TaskDistribution, num_steps: Array | int) -> tuple[MetaState, Metrics]:
        def body(_: Any, carry: tuple[MetaState, Metrics, Skips]) -> tuple[MetaState, Metrics, Skips]:
            state, total, skips = carry
            state, metrics = one(state, tasks)
            skipped = metrics.pop(SKIPPED, None)
            if skipped is not None:
                metrics = jax.tree.map(lambda leaf: jnp.where(skipped > 0, 0, leaf), metrics)
                skips = skips.after(skipped > 0, state.step)
            return state, jax.tree.map(jnp.add, total, metrics), skips

        shapes = jax.eval_shape(one, state, tasks)[1]
        counted = shapes.pop(SKIPPED, None) is not None
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        state, total, skips = lax.fori_loop(0, num_steps, body, (state, zeros, Skips.none()))
        taken = num_steps - skips.number
        unknown = jnp.where((taken == 0) & (jnp.asarray(num_steps) > 0), jnp.nan, 0.0)
        metrics = jax.tree.map(lambda leaf: leaf / jnp.maximum(taken, 1) + unknown, total)
        if counted:
            metrics |= {SKIPPED: skips.number, f"{SKIPPED}_in_a_row": skips.in_a_row, f"last_{SKIPPED}": skips.last}
        return state, metrics if diagnostics is None else diagnostics(state, tasks) | metrics

    return steps


def sample_task(tasks: TaskDistribution, key: PRNGKey) -> Task:
    """One task of a distribution, without the task axis.

    Raises:
        InnerloopError: if it is no distribution, does not draw stacked tasks, or holds NumPy's arrays out of sight.
    """
    if not isinstance(tasks, TaskDistribution):
        raise InnerloopError(
            f"tasks must be a task distribution, with sample(key, num_tasks), not a {type(tasks).__name__}."
        )
    try:
        drawn = tasks.sample(key, 1)
    except jax.errors.TracerArrayConversionError as error:
        raise InnerloopError(
            f"{type(tasks).__name__}.sample takes from a NumPy array with a traced index; hold the array as "
            "jnp.asarray(...), or register the class with jax.tree_util.register_dataclass."
        ) from error
    if isinstance(drawn, Task) and (number := require_tasks(drawn, f"{type(tasks).__name__}.sample")) != 1:
        raise InnerloopError(f"{type(tasks).__name__}.sample drew {number} tasks where num_tasks=1 were asked for.")
    return jax.tree.map(lambda leaf: leaf[0], drawn)
