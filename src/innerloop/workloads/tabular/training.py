"""Meta-training on a user's own tasks: episodes from their rows, a time limit, a state that survives interruption."""

import time
from typing import Any

import jax

from innerloop.errors import InnerloopError
from innerloop.runs import checkpoint
from innerloop.runs.progress import Progress, Recorder
from innerloop.runs.rundir import Run
from innerloop.tabular.fit import Fit, Fitting, StepInfo
from innerloop.tabular.prepare import Prepared
from innerloop.workloads.episodes.config import training_settings
from innerloop.workloads.episodes.training import InterruptedTraining, interruptions
from innerloop.workloads.tabular.config import OwnConfig

CHECKPOINT_SECONDS = 30.0
RESERVE = 0.9
"""The share of the time limit that the course is planned for; validation takes some of the rest."""
KEEP = 2


def newest(run: Run, data: Prepared, progress: Progress) -> Fit:
    """The newest saved state of a run.

    Raises:
        InnerloopError: if there is none.
    """
    template = data.fitting().start(run.config.seed)
    fit = checkpoint.read_newest(run.checkpoints, template, settings_of(run.config, data), progress.say)
    if fit is None:
        raise InnerloopError(f"{run.path} has no whole checkpoint; start training with: innerloop resume {run.path}")
    return fit


def settings_of(config: OwnConfig, data: Prepared) -> dict[str, Any]:
    """What the state after a number of meta-steps depends on."""
    return {**training_settings(config), "data": data.fingerprint()}


def train(run: Run, data: Prepared, progress: Progress) -> Fit:
    """Train to the end, from the newest checkpoint if there is one.

    Raises:
        InterruptedTraining: when a signal asked for it; the state is saved.
        InnerloopError: if training diverges, or files cannot be written.
    """
    config: OwnConfig = run.config
    plan = data.plan
    fitting = data.fitting()
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
    moment.require_finite(
        f"lower --training.learning-rate ({config.training.learning_rate:g}) or --learner.learning-rate "
        f"({config.learner.learning_rate:g}) in a new --run-dir"
    )
