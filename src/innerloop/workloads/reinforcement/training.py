"""Meta-training by reinforcement, through any number of interruptions."""

import time
from typing import Any

import jax
import numpy as np

from innerloop import rl
from innerloop.runs import checkpoint
from innerloop.runs.progress import Progress, Recorder, duration
from innerloop.runs.rundir import Run
from innerloop.workloads.episodes.config import training_settings
from innerloop.workloads.episodes.training import (
    InterruptedTraining,
    interruptions,
    newest_state,
    require_finite,
    require_finite_state,
    resumed,
)
from innerloop.workloads.reinforcement.build import Clocked, RLExperiment


def initial_state(experiment: RLExperiment) -> rl.RLState:
    """The state before the first iteration, which the seed fixes."""
    params_key, run_key = jax.random.split(jax.random.key(experiment.config.seed, impl="threefry2x32"))
    return rl.init(experiment.policy.init(params_key), experiment.rule, experiment.outer, run_key)


def trained_state(run: Run, experiment: RLExperiment, progress: Progress) -> rl.RLState:
    """The state of the newest checkpoint.

    Raises:
        InnerloopError: if there is none.
    """
    return newest_state(run, initial_state(experiment), progress)


def train(run: Run, experiment: RLExperiment, progress: Progress) -> rl.RLState:
    """Train to the end, from the newest checkpoint if there is one.

    Checkpoints lie between iterations, each of which begins new episodes with randomness from (seed, iteration): there
    is no state of a simulator to be saved, and an interrupted run ends with the bits of one that was not.

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
    state = resumed(run, initial_state(experiment), progress, "iteration")
    done, total = int(state.step), config.outer.iterations
    if done >= total:
        return state

    step = experiment.train_step()
    state = experiment.layout.replicate(state)
    recorder = Recorder(run.metrics, run.path / "tensorboard" if config.log.tensorboard else None)
    began = time.perf_counter()
    saved_at, saved_step, start = time.monotonic(), done, done
    progress.say("the first iteration also compiles ...")
    try:
        with interruptions("this iteration") as interrupted:
            while done < total:
                values, state = timed(step, state, experiment)
                done += 1
                require_finite(values, done, saved_step, config)
                if done % config.log.every == 0 or done == total:
                    recorder.record(done, values)
                remaining = (total - done) * (time.perf_counter() - began) / (done - start)
                progress.update(training_line(values, done, total, remaining), last=done == total)
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


def timed(step: rl.RLStep, state: rl.RLState, experiment: RLExperiment) -> tuple[dict[str, float], rl.RLState]:
    """One iteration: what is recorded of it, and the state after it."""
    clock = experiment.env if isinstance(experiment.env, Clocked) else None
    start, simulated = time.perf_counter(), clock.seconds if clock else 0.0
    state, metrics = step(state)
    metrics: dict[str, Any] = jax.device_get(metrics)
    seconds = time.perf_counter() - start
    returns = np.asarray(metrics.pop("returns"))
    values = {f"return_{i}": float(value) for i, value in enumerate(returns)}
    values |= {name: float(value) for name, value in metrics.items()} | {"seconds": seconds}
    if clock:
        values["simulator_share"] = (clock.seconds - simulated) / seconds
    return values, state


def training_line(values: dict[str, float], done: int, total: int, remaining: float) -> str:
    """The line that is shown while training, within 80 columns."""
    returns = [value for name, value in values.items() if name.startswith("return_")]
    parts = [
        f"iteration {done:,}/{total:,}",
        f"{values['seconds']:.1f} s",
        f"return {' → '.join(f'{each:.1f}' for each in returns)}",
    ]
    if values.get("broken"):
        parts.append(f"{values['broken']:.0f} broken")
    if values.get("accepted") == 0:
        parts.append("no step")
    return "  ".join([*parts, f"ETA {duration(remaining)}"])
