"""Meta-training on a user's own tasks: episodes from their rows, a time limit, a state that survives interruption."""

import hashlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs.progress import Progress
from innerloop.runs.workload import StepInfo as WorkloadStep
from innerloop.tabular.episodes import ClassEpisodes, RaggedEpisodes
from innerloop.tabular.features import Feature, Preparation
from innerloop.tabular.fit import Fit, Fitting, StepInfo
from innerloop.types import TaskDistribution
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.defaults import Plan, in_order, plan, smallest_task
from innerloop.workloads.tabular.rows import PARTS, Rows, split, usable

SAMPLE = 50_000
"""Training rows from which the scales of features are taken."""
RESERVE = 0.9
"""The share of the time limit that the course is planned for; validation takes some of the rest."""


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


def prepared(config: Config, rows: Rows) -> Prepared:
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


def distribution(data: Prepared, part: str, config: Config) -> TaskDistribution | None:
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


def fitting_of(config: Config, data: Prepared) -> Fitting:
    """The compiled meta-step and validation."""
    return Fitting(
        data.plan.design,
        data.plan.schedule,
        data.preparation.sizes,
        data.plan.outputs,
        required(distribution(data, "train", config)),
        distribution(data, "valid", config),
    )


def settings_of(config: Config, data: Prepared) -> dict[str, Any]:
    """What the state after a number of meta-steps depends on."""
    return {**training_settings(config), "data": fingerprint(data)}


def train(config: Config, data: Prepared, fitting: Fitting, fit: Fit, progress: Progress) -> Iterator[WorkloadStep]:
    """Train to the end, or to the end of the time limit.

    Args:
        config: the configuration.
        data: what is trained on.
        fitting: the compiled meta-step and validation.
        fit: where training stands.
        progress: told of compiling, and of the time limit.

    Raises:
        InnerloopError: if training diverges.
    """
    began = time.monotonic()
    if not int(fit.state.step):
        fit = started(fitting, config, progress, began)
    if not fitting.finished(fit):
        for now, info in fitting.run(fit):
            fit = now
            values = info.metrics | {"validation/loss": info.validation}
            held_out = {name: value for name, value in values.items() if value == value or name in info.metrics}
            yield WorkloadStep(fit, info.step, fitting.total(fit), held_out, training_line(info))
            if config.seconds is not None and time.monotonic() - began > config.seconds:
                progress.say(f"the time limit of {config.time_limit} is reached")
                break
    why = "the end" if data.parts.get("valid") is None else f"step {int(fit.best_step):,}, the best on held-out tasks"
    progress.say(f"taken from {why}, after {int(fit.state.step):,} meta-steps")


def started(fitting: Fitting, config: Config, progress: Progress, began: float) -> Fit:
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


def training_line(info: StepInfo) -> str:
    """Loss, accuracy and validation loss, as they are shown while training."""
    metrics = info.metrics
    parts = [
        f"loss {metrics['loss_after']:.3f}",
        f"accuracy {100 * metrics['accuracy_after']:.1f} %" if "accuracy_after" in metrics else "",
        f"held out {info.validation:.3f}" if info.validation == info.validation else "",
    ]
    return "  ".join(part for part in parts if part)


def fingerprint(data: Prepared) -> str:
    """What tells other data under the same name: a hash of everything that training reads."""
    digest = hashlib.sha256()
    for part in PARTS:
        if part in data.parts:
            rows = data.parts[part]
            digest.update(repr((part, rows.names, rows.target.tolist())).encode())
            digest.update(np.ascontiguousarray(rows.tasks).data)
            for name, values in rows.columns.items():
                digest.update(name.encode())
                plain = values.dtype != object
                digest.update(np.ascontiguousarray(values).data if plain else repr(values.tolist()).encode())
    return digest.hexdigest()[:16]


def required(tasks: TaskDistribution | None) -> TaskDistribution:
    """The training tasks, which are always there."""
    assert tasks is not None
    return tasks
