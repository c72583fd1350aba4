"""One sitting of the program with a run in reinforcement learning: train, evaluate, report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from innerloop.runs import rundir as runs
from innerloop.runs.progress import Progress
from innerloop.workloads.episodes.session import printed_and_reported, set_up
from innerloop.workloads.reinforcement.config import Evaluation, RLConfig


def run_to_the_end(config: RLConfig) -> int:
    """Train, evaluate and report, from wherever the run stands.

    Returns:
        0, or 130 if it was interrupted.
    """
    progress = Progress()
    path = runs.directory_of(config)
    with runs.locked(path):
        stored = runs.stored(path)
        begun = stored if stored and stored.begun else None
        if begun:
            runs.require_same(begun, config)
        set_up(config.layout.shards)
        from innerloop.workloads.reinforcement import training
        from innerloop.workloads.reinforcement.build import build

        experiment = build(config)
        run = runs.Run(path, config) if begun else runs.create(path, config)
        progress.say(f"{config.recipe} · {config.algorithm} · seed {config.seed} · {path}")
        progress.say(describe(config))
        try:
            state = training.train(run, experiment, progress)
        except training.InterruptedTraining:
            progress.say(f"stopped and saved; continue with: innerloop resume {path}")
            return 130
        finish(run, experiment, state, progress, again=False)
    return 0


def dry_run(config: RLConfig) -> None:
    """Say what a run would be, and write nothing."""
    progress = Progress()
    set_up(config.layout.shards)
    from innerloop.workloads.reinforcement.build import build

    experiment = build(config)
    progress.say(f"{config.recipe} · {config.algorithm} · seed {config.seed} · no run is made")
    progress.say(describe(config))
    steps = config.outer.meta_batch * config.sampling.episodes * experiment.horizon * (config.inner.steps + 1)
    progress.say(f"{steps:,} steps of {config.environment} in an iteration")


def score_and_report(path: Path, config: RLConfig, *, again: bool) -> None:
    """Evaluate a trained run (again, or if it was not yet) and write its report."""
    progress = Progress()
    with runs.locked(path):
        run = replace(runs.existing(path), config=config)
        set_up(config.layout.shards)
        from innerloop.workloads.reinforcement import training
        from innerloop.workloads.reinforcement.build import build

        experiment = build(config)
        state = training.trained_state(run, experiment, progress)
        finish(run, experiment, state, progress, again=again)


def finish(run: runs.Run, experiment: Any, state: Any, progress: Progress, *, again: bool) -> None:
    """Evaluate (again, or if it was not yet), print the table and write the report."""
    from innerloop.workloads.reinforcement import report, scoring

    step = int(state.step)
    result = None if again else run.result()
    if result is None or result["meta_steps"] != step:
        result = scoring.score(run, experiment, state.meta, step, progress)
    measured = replace(experiment.config, evaluation=Evaluation(**result["settings"]))
    experiment = replace(experiment, config=measured)
    printed_and_reported(run, result, progress, lambda: report.write(run, experiment, state.meta, result))


def describe(config: RLConfig) -> str:
    """What is about to happen, in a line."""
    updates = f"{config.inner.steps} inner {'update' if config.inner.steps == 1 else 'updates'}"
    return (
        f"{config.environment}: {config.outer.iterations:,} iterations of {config.outer.meta_batch} tasks x "
        f"{config.sampling.episodes} episodes, {updates} of {config.inner.learning_rate:g}"
    )
