"""Meta-training on a user's own tasks: episodes from their rows, a time limit, a state that survives interruption."""

import time
from collections.abc import Iterator
from typing import Any

from innerloop.runs import codec
from innerloop.runs.progress import Progress
from innerloop.runs.workload import StepInfo as WorkloadStep
from innerloop.tabular.fit import Fit, Fitting, StepInfo
from innerloop.tabular.prepare import Prepared
from innerloop.workloads.tabular.config import Config

RESERVE = 0.9
"""The share of the time limit that is left which the course is planned for, validation included."""


def settings_of(config: Config, data: Prepared) -> dict[str, Any]:
    """What the state after a number of meta-steps depends on."""
    return {**codec.training_settings(config), "data": data.fingerprint()}


def train(
    config: Config, data: Prepared, fitting: Fitting, fit: Fit, progress: Progress, spent: float = 0.0
) -> Iterator[WorkloadStep]:
    """Train to the end, or to the end of the time limit.

    Args:
        config: the configuration.
        data: what is trained on.
        fitting: the compiled meta-step and validation.
        fit: where training stands.
        progress: told of compiling, and of the time limit.
        spent: seconds of the time limit that went by before.

    Raises:
        InnerloopError: if training diverges.
    """
    began = time.monotonic() - spent
    if not int(fit.state.step):
        fit = started(fitting, config, progress, began)
    if not fitting.finished(fit):
        last = time.monotonic()
        for now, info in fitting.run(fit):
            fit = now
            last, took = time.monotonic(), time.monotonic() - last
            values = info.metrics | {"validation/loss": info.validation}
            held_out = {name: value for name, value in values.items() if value == value or name in info.metrics}
            yield WorkloadStep(fit, info.step, fitting.total(fit), held_out, training_line(info))
            if config.seconds is not None and last + took - began > config.seconds and not fitting.finished(fit):
                progress.say(f"the time limit of {config.time_limit} is reached: another part would not fit into it")
                break
    why = "the end" if data.parts.get("valid") is None else f"step {int(fit.best_step):,}, the best on held-out tasks"
    progress.say(f"taken from {why}, after {int(fit.state.step):,} meta-steps")


def started(fitting: Fitting, config: Config, progress: Progress, began: float) -> Fit:
    """The state before the first meta-step, with a course that fits into the time limit."""
    with progress.timed("compiling the meta-step"):
        trial, _ = fitting.advance(fitting.start(config.seed), 1)
    if config.seconds is None:
        return fitting.start(config.seed)
    trial, _ = fitting.validate(trial)  # which is compiled here, so that it is not counted below
    steps, before = 5, time.monotonic()
    trial, _ = fitting.advance(trial, steps)
    step_time = (time.monotonic() - before) / steps
    before = time.monotonic()
    fitting.validate(trial)
    step_time += (time.monotonic() - before) / fitting.schedule.every
    left = config.seconds - (time.monotonic() - began)
    fit = fitting.limited(fitting.start(config.seed), int(RESERVE * left / step_time))
    if fitting.total(fit) < fitting.schedule.iterations:
        progress.say(
            f"{fitting.total(fit):,} meta-steps of {1000 * step_time:.0f} ms fit into {config.time_limit} "
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
