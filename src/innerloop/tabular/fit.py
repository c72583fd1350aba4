"""Meta-training of a learner as a sequence of states: pure of files and clocks, for the program and the estimators."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from innerloop.core import outer
from innerloop.core.layout import Layout, map_over_tasks
from innerloop.core.outer import MetaState, sample_task
from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.tabular.design import Design
from innerloop.tabular.episodes import ClassEpisodes, RaggedEpisodes
from innerloop.tabular.features import Inputs
from innerloop.tabular.learner import initial, learner_loss, started_pooled
from innerloop.types import Meta, Task, TaskDistribution

VALIDATION_EPISODES = 200
PATIENCE = 10
"""Validations without a better score after which training stops."""
CLIP = 1.0
SCALARS_FASTER = 20.0
"""How much larger the outer step of the head's scalars is."""
WARMUP_STEPS = 50
"""Meta-steps, at most, until the step size is at its peak."""


@dataclass(frozen=True)
class Schedule:
    """How a learner is trained.

    Attributes:
        iterations: meta-steps at most.
        meta_batch: episodes in a meta-step.
        learning_rate: peak of the outer step size, reached after a short rise and followed by a cosine to 0.
        weight_decay: of matrices.
        every: meta-steps between validations.
    """

    iterations: int = 1000
    meta_batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    every: int = 100


class Fit(NamedTuple):
    """Where training stands; saved and restored, it goes on to the same bits.

    Attributes:
        state: of the outer loop.
        best: what was learned at the best validation score.
        best_loss: that score, the mean query loss of held-out episodes.
        best_step: its meta-step.
    """

    state: MetaState
    best: Meta
    best_loss: Array
    best_step: Array


class StepInfo(NamedTuple):
    """What is told after each validation: the meta-step, mean metrics since the one before, and the held-out loss."""

    step: int
    metrics: dict[str, float]
    validation: float

    def require_finite(self, mend: str) -> None:
        """Stop training whose numbers are no longer numbers.

        Args:
            mend: what to do then.

        Raises:
            InnerloopError: naming the metric.
        """
        for name, value in self.metrics.items():
            if not np.isfinite(value):
                raise InnerloopError(f"Training diverged: {name} is {value} at step {self.step}; {mend}.")


class Fitting:
    """The compiled meta-step and validation of one learner.

    Args:
        design: what the learner is.
        schedule: how it is trained.
        sizes: counts and numbers that its encoder reads.
        classes: outputs of its head; 1 for regression.
        training: the training tasks.
        held_out: tasks on which training is validated and stopped; `None` takes the last state.
        together: training rows and their targets, on which a head that is shared by all tasks begins as a pooled model.
    """

    def __init__(
        self,
        design: Design,
        schedule: Schedule,
        sizes: tuple[int, int],
        classes: int,
        training: RaggedEpisodes | ClassEpisodes,
        held_out: TaskDistribution | None,
        together: tuple[Inputs, np.ndarray] | None = None,
    ):
        self.design, self.schedule, self.sizes, self.classes = design, schedule, sizes, classes
        self._training, self._held_out, self._together = training, held_out, together
        self._steps, self._finite, self._validate = _programs(design, schedule, classes)

    def start(self, seed: int) -> Fit:
        """The state before the first meta-step, which the seed fixes."""
        params_key, run_key = jax.random.split(_key(seed))
        meta = initial(self.design, self.sizes, self.classes, params_key)
        if self._together is not None:
            meta = started_pooled(self.design, meta, *self._together)
        state = MetaState(meta, _optimizer(self.schedule).init(meta), jnp.zeros((), jnp.int32), run_key)
        return Fit(state, jax.tree.map(jnp.copy, meta), jnp.asarray(jnp.inf, jnp.float32), jnp.zeros((), jnp.int32))

    def total(self, fit: Fit) -> int:
        """Meta-steps that training will take at most."""
        return int(_parts(fit)[-1].total)

    def limited(self, fit: Fit, total: int) -> Fit:
        """The same with another length of the course; at least one meta-step, at most those of the schedule."""
        total = min(max(total, 1), self.schedule.iterations)
        *before, course = _parts(fit)
        return fit._replace(
            state=fit.state._replace(optimizer=(*before, course._replace(total=jnp.asarray(total, jnp.int32))))
        )

    def finished(self, fit: Fit) -> bool:
        """Whether all meta-steps are taken, or validation has not improved for long."""
        step = int(fit.state.step)
        waited = step - int(fit.best_step)
        patient = self._held_out is None or waited < PATIENCE * self.schedule.every
        return step >= self.total(fit) or not patient

    def advance(self, fit: Fit, count: int) -> tuple[Fit, dict[str, float]]:
        """Take meta-steps; the state that is given must not be used again."""
        state, metrics = self._steps(fit.state, self._training, np.int32(count))
        return fit._replace(state=state), {name: float(value) for name, value in jax.device_get(metrics).items()}

    def examined(self, fit: Fit) -> tuple[np.ndarray, Task, np.ndarray]:
        """Of the next meta-step: whether each episode's gradient is finite, the episodes, and which tasks they are of.

        Returns:
            Booleans `[meta_batch]`, the episodes stacked, and indices of training tasks `[meta_batch]`.
        """
        finite, drawn = self._finite(fit.state, self._training)
        keys = outer.sample_keys(fit.state, self.schedule.meta_batch)
        numbers = jax.vmap(lambda key: self._training.numbers(key, 1)[0])(keys)
        return np.asarray(finite), drawn, np.asarray(numbers)

    def validate(self, fit: Fit) -> tuple[Fit, float]:
        """Validate, and keep what was learned if it is the best so far."""
        meta, step = fit.state.meta, fit.state.step
        if self._held_out is None:
            return fit._replace(best=jax.tree.map(jnp.copy, meta), best_step=jnp.copy(step)), float("nan")
        loss = self._validate(meta, self._held_out)
        if not loss < fit.best_loss:
            return fit, float(loss)
        return fit._replace(best=jax.tree.map(jnp.copy, meta), best_loss=loss, best_step=jnp.copy(step)), float(loss)

    def run(self, fit: Fit) -> Iterator[tuple[Fit, StepInfo]]:
        """Train to the end, with a pause after every validation."""
        if not int(fit.state.step):
            fit, _ = self.validate(fit)  # training may make it worse
        while not self.finished(fit):
            done, every = int(fit.state.step), self.schedule.every
            count = min(every - done % every, self.total(fit) - done)
            fit, metrics = self.advance(fit, count)
            fit, loss = self.validate(fit)
            yield fit, StepInfo(done + count, metrics, loss)


@lru_cache(maxsize=16)
def _programs(design: Design, schedule: Schedule, classes: int) -> tuple[Callable[..., Any], ...]:
    """The meta-steps, what of the next one is finite, and the validation: once for all trainings of a design."""
    loss = learner_loss(design, classes)
    step = outer.meta_step(loss, _optimizer(schedule), meta_batch=schedule.meta_batch)
    return (
        jax.jit(outer.repeat(step), donate_argnums=0),
        jax.jit(outer.finite_tasks(loss, meta_batch=schedule.meta_batch)),
        jax.jit(partial(_validation, learner_loss(replace(design, dropout=0.0, dropout_inputs=0.0), classes))),
    )


class ScheduleState(NamedTuple):
    """Where the outer step size stands: so many of so many meta-steps."""

    done: Array
    total: Array


def _optimizer(schedule: Schedule) -> optax.GradientTransformation:
    matrices = lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.scale_by_adam(),
        optax.add_decayed_weights(schedule.weight_decay, mask=matrices),
        _faster_scalars(),
        _along_course(schedule.learning_rate, schedule.iterations),
    )


def _faster_scalars() -> optax.GradientTransformation:
    """Larger steps for what the head has few of: logarithms of scales, penalties and inner step sizes.

    Adam moves each by about its step size, whatever the gradient; a scale that has to change by a factor of ten would
    need thousands of meta-steps at the step size of a network.
    """

    def faster(path: Any, leaf: Array) -> Array:
        names = path_name(path).split("/")
        return leaf * SCALARS_FASTER if leaf.ndim < 2 and ("head" in names or names[0] == "rule") else leaf

    return optax.stateless(lambda updates, params: jax.tree.map_with_path(faster, updates))


def _along_course(peak: float, total: int) -> optax.GradientTransformation:
    """The step size: a short rise, then a cosine to 0. The length is state, so that it can be set without compiling."""

    def init(params: Any) -> ScheduleState:
        return ScheduleState(jnp.zeros((), jnp.int32), jnp.asarray(total, jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, ScheduleState]:
        rise = jnp.clip(state.total // 5, 1, WARMUP_STEPS)
        fall = (state.done - rise) / jnp.maximum(state.total - rise, 1)
        rate = peak * jnp.where(
            state.done < rise, state.done / rise, 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.clip(fall, 0, 1))
        )
        return jax.tree.map(lambda update: -rate * update, updates), state._replace(done=state.done + 1)

    return optax.GradientTransformation(init, update)


def _validation(loss: Callable[..., Any], meta: Meta, tasks: TaskDistribution) -> Array:
    """The mean query loss of fixed episodes, a few at a time."""

    def one(shared: Any, index: Array) -> Array:
        meta, tasks = shared
        key = jax.random.fold_in(_key(0), index)
        return loss(meta, sample_task(tasks, key), key)[1]["loss_after"]

    values = map_over_tasks(one, Layout(chunk=20))((meta, tasks), jnp.arange(VALIDATION_EPISODES))
    return jnp.mean(values)


def _parts(fit: Fit) -> tuple[Any, ...]:
    """The states of the parts of the optimiser, the last of which is the course of its step size."""
    state: Any = fit.state.optimizer
    return state


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="threefry2x32")
