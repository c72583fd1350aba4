"""One sitting of the program with a run: set the machine up, train, evaluate, report."""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.runs import rundir as runs
from innerloop.runs import store
from innerloop.runs.progress import Progress
from innerloop.workloads.episodes.config import Config, Evaluation


def run_to_the_end(config: Config, *, report: bool = True) -> int:
    """Train, evaluate and report, from wherever the run stands.

    Args:
        config: the experiment.
        report: whether to print its table and write its report.

    Returns:
        0, or 130 if it was interrupted.
    """
    progress = Progress()
    path = runs.directory_of(config)
    with runs.locked(path):
        stored = runs.stored(path)
        from innerloop.workloads.episodes import memory as plan
        from innerloop.workloads.episodes import training, tune
        from innerloop.workloads.episodes.build import build

        begun = stored if stored and stored.begun else None
        if begun:
            runs.require_same(begun, config)
            config = replace(config, layout=begun.config.layout)
        set_up(config.layout.shards, config.network.precision)
        progress.say(f"{config.recipe} · {config.algorithm} · seed {config.seed} · {path}")
        experiment = build(config, progress.say)
        experiment.require_tasks()
        if not begun:
            experiment = tune.tuned(experiment, progress.say)
            if config.network.kind != "mlp" and not experiment.config.layout.chunk:
                experiment = plan.fitted(experiment, training.initial_state(experiment), progress.say)
            config = experiment.config
        run = runs.Run(path, config) if begun else runs.create(path, config)
        progress.say(describe(config))
        progress.say(f"computed: {tune.in_words(config.layout)}")
        for remark in experiment.remarks():
            progress.say(f"note: {remark}")
        try:
            state = training.train(run, experiment, progress)
        except training.InterruptedTraining:
            progress.say(f"stopped and saved; continue with: innerloop resume {path}")
            return 130
        finish(run, experiment, state, progress, again=False, report=report)
    return 0


def dry_run(config: Config) -> None:
    """Say what a run would be and need, and write nothing."""
    progress = Progress()
    set_up(config.layout.shards, config.network.precision)
    from innerloop.workloads.episodes import memory as plan
    from innerloop.workloads.episodes import training, tune
    from innerloop.workloads.episodes.build import assemble, build

    experiment = build(config, progress.say)
    experiment.require_tasks()
    progress.say(f"{config.recipe} · {config.algorithm} · seed {config.seed} · no run is made")
    progress.say(describe(config))
    ways = tune.measured(experiment, progress.say)
    progress.say(tune.describe(ways))
    experiment = assemble(replace(config, layout=tune.best(ways)), experiment.data)
    progress.say(plan.describe(experiment, training.initial_state(experiment)))


def score_and_report(path: Path, config: Config, *, again: bool) -> None:
    """Evaluate a trained run (again, or if it was not yet) and write its report."""
    progress = Progress()
    with runs.locked(path):
        run = replace(runs.existing(path), config=config)
        set_up(config.layout.shards, config.network.precision)
        from innerloop.workloads.episodes import training
        from innerloop.workloads.episodes.build import build

        experiment = build(config, progress.say)
        state = training.trained_state(run, experiment, progress)
        finish(run, experiment, state, progress, again=again)


def finish(run: runs.Run, experiment: Any, state: Any, progress: Progress, *, again: bool, report: bool = True) -> None:
    """Evaluate (again, or if it was not yet), and, if wanted, print the table and write the report."""
    from innerloop.workloads.episodes import report as reports
    from innerloop.workloads.episodes import scoring

    step = int(state.step)
    result = None if again else run.result()
    if result is None or result["meta_steps"] != step:
        result = scoring.score(run, experiment, state.meta, step, progress)
    if not report:
        return
    measured = replace(experiment.config, evaluation=Evaluation.from_json(result["settings"]))
    experiment = replace(experiment, config=measured)
    printed_and_reported(run, result, progress, lambda: reports.write(run, experiment, state.meta, result))


def printed_and_reported(run: runs.Run, result: dict[str, Any], progress: Progress, write: Callable[[], None]) -> None:
    """Print the table of an evaluation and write the report, if what draws it is installed."""
    from innerloop.workloads.episodes import scoring

    progress.say(scoring.as_text(result))
    reported(run, progress, write)


def reported(run: runs.Run, progress: Progress, write: Callable[[], None]) -> None:
    """Write the report, if what draws it is installed."""
    try:
        with progress.timed("writing the report"):
            write()
    except InnerloopError as error:
        if "matplotlib" not in str(error):
            raise
        progress.say(f"no report: {error}")
        return
    progress.say(f"report: {run.report.resolve()}")


def set_up(shards: int = 0, precision: str = "float32") -> None:
    """Prepare JAX: one CPU device for each shard, and compiled programs kept between sessions.

    Must come before JAX computes anything.

    Args:
        shards: devices that tasks are spread over; 0 for as many as there are cores.
        precision: in which the network computes.

    Raises:
        InnerloopError: if the device does not compute in that.
    """
    import jax

    devices = shards or runs.cores()
    if jax.config.jax_num_cpu_devices < devices:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_num_cpu_devices", devices)
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    require_precision(precision)
    cache = store.cache_dir() / "xla"
    with suppress(OSError):  # JAX says so if it cannot write there, and goes on
        cache.mkdir(exist_ok=True, mode=0o700)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # fifty small programs make a sitting
    warnings.filterwarnings("ignore", message="Some donated buffers were not usable")


def require_precision(precision: str) -> None:
    """Refuse a floating-point type that the device does not compute in.

    Raises:
        InnerloopError: naming both.
    """
    import jax
    import jax.numpy as jnp

    try:
        number = jnp.ones((2, 2), precision)
        jax.block_until_ready(number @ number)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InnerloopError(
            f"--network.precision is {precision}, which {jax.devices()[0].device_kind} does not compute in; choose "
            "float32."
        ) from error


def describe(config: Config) -> str:
    """What is about to happen, in a line."""
    return (
        f"{config.outer.iterations:,} meta-steps of {config.outer.meta_batch} tasks, {config.inner.steps} inner "
        f"{'step' if config.inner.steps == 1 else 'steps'} of {config.inner.learning_rate:g}"
    )
