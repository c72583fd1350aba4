"""Meta-training on a user's own tasks: episodes from their rows, a time limit, a state that survives interruption."""

import hashlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import checkpoint
from innerloop.runs.progress import Progress, Recorder
from innerloop.runs.rundir import Run
from innerloop.tabular.episodes import ClassEpisodes, RaggedEpisodes
from innerloop.tabular.features import Feature, Preparation
from innerloop.tabular.fit import Fit, Fitting, StepInfo
from innerloop.types import TaskDistribution
from innerloop.workloads.episodes.config import training_settings
from innerloop.workloads.episodes.training import InterruptedTraining, interruptions
from innerloop.workloads.tabular.config import OwnConfig
from innerloop.workloads.tabular.defaults import Plan, in_order, plan, smallest_task
from innerloop.workloads.tabular.rows import PARTS, Rows, split, usable

SAMPLE = 50_000
"""Training rows from which the scales of features are taken."""
CHECKPOINT_SECONDS = 30.0
RESERVE = 0.9
"""The share of the time limit that the course is planned for; validation takes some of the rest."""
KEEP = 2


class Prepared(NamedTuple):
    """Data ready for training.

    Attributes:
        parts: training, validation and test rows.
        preparation: how features are read, fitted on the training rows.
        plan: what is trained and how.
        left_out: tasks that cannot be learned from, with the reason.
    """

    parts: dict[str, Rows]
    preparation: Preparation
    plan: Plan
    left_out: list[tuple[str, str]]


def prepared(config: OwnConfig, rows: Rows) -> Prepared:
    """Leave out what cannot be learned from, split by task, fit the preparation on the training part, plan.

    Raises:
        InnerloopError: if what is left is too little.
    """
    if rows.image:
        parts, left_out = split_images(rows, config.seed, config.ways), []
    else:
        rows, left_out = usable(rows, smallest_task(config, rows))
        parts = split(rows, config.seed)
    training = parts["train"]
    if rows.image:
        name, pixels = next(iter(training.columns.items()))
        preparation = Preparation((Feature(name, "counts", pixels.shape[1], tuple(range(pixels.shape[1]))),))
    else:
        number = len(training.target)
        chosen = np.random.default_rng(config.seed).permutation(number)[:SAMPLE]
        preparation = Preparation.fit({name: values[chosen] for name, values in training.columns.items()})
    return Prepared(parts, preparation, plan(config, rows, sum(preparation.sizes)), left_out)


def split_images(rows: Rows, seed: int, ways: int) -> dict[str, Rows]:
    """Images split by task, or by class if all classes belong to one.

    Raises:
        InnerloopError: if there are too few.
    """
    if len(rows.names) > 1:
        return split(rows, seed)
    classes = in_order(set(rows.target.tolist()))
    if len(classes) < 3 * ways:
        raise InnerloopError(
            f"There are {len(classes)} classes; tasks of {ways} classes (--ways) need at least {3 * ways}, since "
            "training, validation and test share none."
        )
    index = {label: i for i, label in enumerate(classes)}
    as_tasks = rows._replace(tasks=np.array([index[each] for each in rows.target], np.int32), names=classes)
    parts = split(as_tasks, seed, ways)
    return {
        part: each._replace(tasks=np.zeros(len(each.tasks), np.int32), names=rows.names) for part, each in parts.items()
    }


def distribution(data: Prepared, part: str, config: OwnConfig) -> TaskDistribution | None:
    """The episodes of one part of the data, or `None` if there is no such part."""
    if part not in data.parts:
        return None
    rows, plan = data.parts[part], data.plan
    inputs = data.preparation.encode(rows.columns)
    if rows.image:
        return ClassEpisodes.from_rows(
            inputs, rows.target, rows.tasks, ways=config.ways, shots=plan.supports, queries=plan.queries
        )
    y = rows.target.astype(np.float32) if rows.regression else label_indices(rows, plan.labels)
    return RaggedEpisodes.from_rows(
        inputs, y, rows.tasks, supports=plan.supports, queries=plan.queries, seed=config.seed
    )


def label_indices(rows: Rows, labels: tuple[str, ...]) -> np.ndarray:
    """The class of each row among those shared by all tasks, or among those of its own task."""
    if labels:
        place = {label: i for i, label in enumerate(labels)}
        return np.array([place[each] for each in rows.target], np.int32)
    y = np.zeros(len(rows.target), np.int32)
    for task in range(len(rows.names)):
        chosen = np.flatnonzero(rows.tasks == task)
        place = {label: i for i, label in enumerate(in_order(set(rows.target[chosen].tolist())))}
        y[chosen] = [place[each] for each in rows.target[chosen]]
    return y


def fitting_of(config: OwnConfig, data: Prepared) -> Fitting:
    """The compiled meta-step and validation."""
    return Fitting(
        data.plan.design,
        data.plan.schedule,
        data.preparation.sizes,
        data.plan.outputs,
        required(distribution(data, "train", config)),
        distribution(data, "valid", config),
    )


def newest(run: Run, data: Prepared, progress: Progress) -> Fit:
    """The newest saved state of a run.

    Raises:
        InnerloopError: if there is none.
    """
    template = fitting_of(run.config, data).start(run.config.seed)
    fit = checkpoint.read_newest(run.checkpoints, template, settings_of(run.config, data), progress.say)
    if fit is None:
        raise InnerloopError(f"{run.path} has no whole checkpoint; start training with: innerloop resume {run.path}")
    return fit


def settings_of(config: OwnConfig, data: Prepared) -> dict[str, Any]:
    """What the state after a number of meta-steps depends on."""
    return {**training_settings(config), "data": fingerprint(data)}


def train(run: Run, data: Prepared, progress: Progress) -> Fit:
    """Train to the end, from the newest checkpoint if there is one.

    Raises:
        InterruptedTraining: when a signal asked for it; the state is saved.
        InnerloopError: if training diverges, or files cannot be written.
    """
    config: OwnConfig = run.config
    plan = data.plan
    fitting = fitting_of(config, data)
    settings = settings_of(config, data)
    restored = checkpoint.read_newest(run.checkpoints, fitting.start(config.seed), settings, progress.say)
    began = time.monotonic()
    if restored is None:
        fit = started(fitting, config, progress, began)
    else:
        fit = restored
        progress.say(f"continuing after step {int(fit.state.step):,}")
    run.truncate_records(int(fit.state.step))
    recorder = Recorder(run.metrics, None)
    saved, first, last = time.monotonic(), int(fit.state.step), time.monotonic()
    try:
        with interruptions() as interrupted:
            for now, moment in fitting.run(fit):
                fit = now
                require_finite(moment, config)
                rate = (moment.step - first) * plan.schedule.meta_batch / max(time.monotonic() - last, 1e-9)
                first, last = moment.step, time.monotonic()
                values = moment.metrics | {"validation/loss": moment.validation, "tasks_per_second": rate}
                recorder.record(moment.step, {name: value for name, value in values.items() if value == value})
                late = config.seconds is not None and last - began > config.seconds
                done = fitting.finished(fit) or late
                progress.update(line(moment, fitting.total(fit), rate), last=done)
                if interrupted or done or last - saved > CHECKPOINT_SECONDS:
                    checkpoint.write(run.checkpoints, moment.step, fit, KEEP, settings)
                    saved = time.monotonic()
                if interrupted and not done:
                    raise InterruptedTraining
                if late:
                    progress.say(f"the time limit of {config.time_limit} is reached")
                if done:
                    break
    finally:
        recorder.close()
    why = "the end" if data.parts.get("valid") is None else f"step {int(fit.best_step):,}, the best on held-out tasks"
    progress.say(f"taken from {why}, after {int(fit.state.step):,} meta-steps")
    return fit


def started(fitting: Fitting, config: OwnConfig, progress: Progress, began: float) -> Fit:
    """The state before the first meta-step, with a course that fits into the time limit."""
    with progress.timed("compiling the meta-step"):
        trial, _ = fitting.advance(fitting.start(config.seed), 1)
    if config.seconds is None:
        return fitting.start(config.seed)
    steps = 5
    before = time.monotonic()
    jax.block_until_ready(fitting.advance(trial, steps)[0])
    each = (time.monotonic() - before) / steps
    left = config.seconds - (time.monotonic() - began)
    fit = fitting.limited(fitting.start(config.seed), int(RESERVE * left / each))
    if fitting.total(fit) < fitting.schedule.iterations:
        progress.say(
            f"{fitting.total(fit):,} meta-steps of {1000 * each:.0f} ms fit into {config.time_limit} "
            f"(of {fitting.schedule.iterations:,})"
        )
    return fit


def line(moment: StepInfo, total: int, rate: float) -> str:
    """The line that is shown while training."""
    metrics = moment.metrics
    told = f"accuracy {100 * metrics['accuracy_after']:.1f} %" if "accuracy_after" in metrics else ""
    parts = [
        f"step {moment.step:,}/{total:,}",
        f"{rate:,.0f} tasks/s",
        f"loss {metrics['loss_after']:.3f}",
        told,
        f"held out {moment.validation:.3f}" if moment.validation == moment.validation else "",
    ]
    return "  ".join(each for each in parts if each)


def require_finite(moment: StepInfo, config: OwnConfig) -> None:
    """Stop a run whose numbers are no longer numbers."""
    bad = [name for name, value in moment.metrics.items() if not np.isfinite(value)]
    if bad:
        raise InnerloopError(
            f"Training diverged: {bad[0]} is {moment.metrics[bad[0]]} at step {moment.step}; lower "
            f"--training.learning-rate ({config.training.learning_rate:g}) or --learner.learning-rate "
            f"({config.learner.learning_rate:g}) in a new --run-dir."
        )


def fingerprint(data: Prepared) -> str:
    """What tells other data under the same name."""
    digest = hashlib.sha256()
    for part in PARTS:
        if part in data.parts:
            rows = data.parts[part]
            digest.update(repr((part, rows.names, len(rows.target), rows.target[:1000].tolist())).encode())
    return digest.hexdigest()[:16]


def required(tasks: TaskDistribution | None) -> TaskDistribution:
    """The training tasks, which are always there."""
    assert tasks is not None
    return tasks
