"""Meta-training: from a configuration to a trained, evaluated and reported run, through any number of interruptions."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import jax
import numpy as np

from innerloop.core import outer
from innerloop.core.evaluate import evaluate
from innerloop.core.outer import MetaState
from innerloop.errors import InnerloopError
from innerloop.runs import checkpoint
from innerloop.runs.progress import Progress, Recorder, duration
from innerloop.runs.rundir import Run, write_text
from innerloop.workloads.episodes import memory as plan
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import Config, training_settings

VALIDATION_TASKS = 200
VALIDATION_SEED = 10_000
NEAR = 0.1
"""A relative gradient at the end of the inner loop up to which it counts as a minimum."""


class DivergedError(InnerloopError):
    """The numbers of a training are no longer numbers."""


class InterruptedTraining(Exception):  # noqa: N818 - not an error
    """Training was asked to stop; its state is saved."""


def initial_state(experiment: Experiment) -> MetaState:
    """The state before the first meta-step, which the seed fixes."""
    params_key, run_key = jax.random.split(jax.random.key(experiment.config.seed, impl="threefry2x32"))
    return outer.init(experiment.model.init(params_key), experiment.rule, experiment.optimizer, run_key)


def trained_state(run: Run, experiment: Experiment, progress: Progress) -> MetaState:
    """The state of the newest checkpoint.

    Raises:
        InnerloopError: if there is none.
    """
    return newest_state(run, initial_state(experiment), progress)


def newest_state(run: Run, template: MetaState, progress: Progress) -> MetaState:
    """The state of the newest checkpoint, of the same structure as the template.

    Raises:
        InnerloopError: if there is none.
    """
    state = checkpoint.read_newest(run.checkpoints, template, training_settings(run.config), progress.say)
    if state is None:
        raise InnerloopError(f"{run.path} has no whole checkpoint; start training with: innerloop resume {run.path}")
    return state


def resumed(run: Run, fresh: Any, progress: Progress, unit: str) -> Any:
    """The state of the newest checkpoint, or else the fresh one; what was recorded after it is dropped."""
    restored = checkpoint.read_newest(run.checkpoints, fresh, training_settings(run.config), progress.say)
    state = fresh if restored is None else restored
    if restored is not None:
        progress.say(f"continuing after {unit} {int(state.step):,}")
    run.truncate_records(int(state.step))
    return state


def train(run: Run, experiment: Experiment, progress: Progress) -> MetaState:
    """Train to the end, from the newest checkpoint if there is one.

    The state after a step depends on the configuration alone, never on where the run was interrupted: tasks derive from
    (seed, step), and the compiled program is the same for any number of steps in a dispatch.

    Args:
        run: where everything is written.
        experiment: what is trained.
        progress: what is said meanwhile.

    Returns:
        The final state.

    Raises:
        InterruptedTraining: when a signal asked for it; the state is saved.
        InnerloopError: if training diverges, or files cannot be written.
    """
    config = experiment.config
    settings = training_settings(config)
    state = resumed(run, initial_state(experiment), progress, "step")
    done, total = int(state.step), config.outer.iterations
    if done >= total:
        return state

    layout = experiment.layout
    tasks = layout.replicate(experiment.training_tasks())
    state = layout.replicate(state)
    with progress.timed("compiling the meta-step"), compile_clock() as compiling:
        steps = plan.compiled_steps(experiment, state, tasks)
    needed = plan.memory_of(steps)
    plan.require_fit(needed, experiment)
    costs = {"compile_seconds": compiling.seconds, **needed._asdict()}
    write_text(run.costs, json.dumps(costs, indent=1))
    validate = Validation(experiment) if config.log.validate_every else None

    recorder = Recorder(run.metrics, run.path / "tensorboard" if config.log.tensorboard else None)
    pace = Pace(done, total, config.outer.meta_batch)
    saved_at, saved_step = time.monotonic(), done
    try:
        with interruptions() as interrupted:
            while done < total:
                count = min(config.log.every - done % config.log.every, total - done)
                state, metrics = steps(state, tasks, np.int32(count))
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                done += count
                require_finite(values, done, saved_step, config)
                pace.advance(done)
                if validate and (done % (config.log.every * config.log.validate_every) == 0 or done == total):
                    values |= validate(state.meta)
                recorder.record(done, values | {"tasks_per_second": pace.tasks_per_second})
                progress.update(training_line(values, pace), last=done == total)
                if interrupted or done == total or time.monotonic() - saved_at >= config.log.checkpoint_seconds:
                    host = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
                    require_finite_state(host, done, saved_step, config)
                    checkpoint.write(run.checkpoints, done, state, config.log.keep, settings)
                    saved_at, saved_step = time.monotonic(), done
                if interrupted:
                    raise InterruptedTraining
    finally:
        recorder.close()
    return state


class Validation:
    """The score on held-out tasks while training goes on."""

    def __init__(self, experiment: Experiment):
        config = experiment.config
        tasks = experiment.distribution("val", config.evaluation.shots[0], config.evaluation.queries)
        self._layout = experiment.layout
        self._tasks = self._layout.replicate(tasks)
        self._key = jax.random.key(VALIDATION_SEED, impl="threefry2x32")
        self._evaluate = jax.jit(
            partial(
                evaluate,
                experiment.loss,
                rule=experiment.rule,
                steps=config.evaluation.steps,
                num_tasks=VALIDATION_TASKS,
                query_losses=experiment.judges,
                layout=self._layout,
                adjoint=experiment.forward,
            )
        )

    def __call__(self, meta: Any) -> dict[str, float]:
        curves = self._evaluate(self._layout.replicate(meta), self._tasks, self._key)
        return {f"validation/{name}": float(np.mean(np.asarray(curve)[:, -1])) for name, curve in curves.items()}


class Pace:
    """How fast training goes, and when it will end."""

    def __init__(self, done: int, total: int, meta_batch: int):
        self.total = total
        self.done = done
        self.tasks_per_second = 0.0
        self._meta_batch = meta_batch
        self._start, self._from = time.perf_counter(), done
        self._last = self._start

    def advance(self, done: int) -> None:
        now = time.perf_counter()
        self.tasks_per_second = (done - self.done) * self._meta_batch / max(now - self._last, 1e-9)
        self._last, self.done = now, done

    @property
    def remaining(self) -> float:
        """Seconds to the end at the mean pace so far."""
        return (self.total - self.done) * (self._last - self._start) / max(self.done - self._from, 1)


def training_line(values: dict[str, float], pace: Pace) -> str:
    """The line that is shown while training, within 80 columns."""
    parts = [f"step {pace.done:,}/{pace.total:,}", f"{pace.tasks_per_second:,.0f} tasks/s"]
    for name, factor, unit in (("loss", 1.0, ""), ("accuracy", 100.0, "%")):
        after, before = values.get(f"{name}_after"), values.get(f"{name}_before")
        if after is not None:
            start = f"{before * factor:.3g}{unit}→" if before is not None else ""
            parts.append(f"{name if name == 'loss' else 'acc'} {start}{after * factor:.3g}{unit}")
    if values.get("unsolved"):
        parts.append(f"{values['unsolved']:.0%} unsolved")
    return "  ".join([*parts, f"ETA {duration(pace.remaining)}"])


def require_finite(values: dict[str, float], step: int, saved: int, config: Any) -> None:
    """Stop a run whose numbers are no longer numbers."""
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        _diverged(f"{bad[0]} is {values[bad[0]]}", step, saved, config)


def require_finite_state(state: MetaState, step: int, saved: int, config: Any) -> None:
    """Never save parameters that are not numbers."""
    if not all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta) if np.issubdtype(leaf.dtype, np.floating)
    ):
        _diverged("a parameter is not finite", step, saved, config)


def _diverged(what: str, step: int, saved: int, config: Any) -> None:
    kept = f"the checkpoint of step {saved} is kept" if saved else "nothing was saved yet"
    raise DivergedError(
        f"Training diverged: {what} at step {step} with --inner.learning-rate {config.inner.learning_rate:g} and "
        f"--outer.learning-rate {config.outer.learning_rate:g}; lower one of them in a new --run-dir ({kept})."
    )


class Clock:
    """Seconds."""

    seconds = 0.0


@contextmanager
def compile_clock() -> Iterator[Clock]:
    """The time of what is compiled inside, as it is when nothing was compiled before.

    What comes from the cache of compiled programs counts with the time that compiling it took.
    """
    clock, start = Clock(), time.perf_counter()

    def saved(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/compilation_cache/compile_time_saved_sec":
            clock.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(saved)
    try:
        yield clock
    finally:
        jax.monitoring.unregister_event_duration_listener(saved)
        clock.seconds += time.perf_counter() - start


def remarks(records: Sequence[dict[str, Any]], config: Config) -> list[str]:
    """What a user should know of how training went, in sentences: whether implicit gradients can be trusted."""
    told = [each for each in records if "unsolved" in each]
    if not told:
        return []
    unsolved, rest = (float(np.mean([each[name] for each in told])) for name in ("unsolved", "stationarity"))
    said = []
    if unsolved > 0:
        said.append(
            f"for {unsolved:.1%} of the training tasks the linear system was not solved to "
            f"{config.variant.tolerance:g}; raise --variant.solver-steps or --variant.regularisation"
        )
    if rest > NEAR:
        said.append(
            f"the inner loop ended away from its minimum (relative gradient {rest:.2f}, 0 at the minimum), where the "
            "implicit gradient is not right; raise --inner.steps or --inner.learning-rate"
        )
    return said


@contextmanager
def interruptions(after: str = "these meta-steps") -> Iterator["Flag"]:
    """A flag that SIGINT and SIGTERM raise; a second signal ends the process at once, as usual.

    Args:
        after: what comes to its end first.
    """
    flag = Flag()
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.raised = True
        words = f"\nstopping after {after}, and saving; once more stops at once\n"
        os.write(sys.stderr.fileno(), words.encode())
        for each, handler in previous.items():
            signal.signal(each, handler)

    for each in (signal.SIGINT, signal.SIGTERM):
        previous[each] = signal.signal(each, handle)
    try:
        yield flag
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


class Flag:
    """True once raised."""

    raised = False

    def __bool__(self) -> bool:
        return self.raised
