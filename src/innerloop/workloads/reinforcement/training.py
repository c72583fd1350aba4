"""Meta-training by reinforcement as a sequence of states, pure of files."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from innerloop import rl
from innerloop.runs import distributed
from innerloop.runs.progress import Progress
from innerloop.runs.workload import StepInfo
from innerloop.workloads.reinforcement.build import Clocked, Experiment


def initial_state(experiment: Experiment) -> rl.RLState:
    """The state before the first iteration, which the seed fixes."""
    params_key, run_key = jax.random.split(jax.random.key(experiment.config.seed, impl="threefry2x32"))
    return rl.init(experiment.policy.init(params_key), experiment.rule, experiment.outer, run_key)


def train(experiment: Experiment, state: rl.RLState, progress: Progress) -> Iterator[StepInfo]:
    """Iterate to the end.

    Every iteration begins new episodes with randomness from (seed, iteration), so there is no state of a simulator to
    be saved between two of them.

    Args:
        experiment: what is trained.
        state: where training stands.
        progress: told that the first iteration also compiles.
    """
    config = experiment.config
    done, total = int(state.step), config.outer.iterations
    if done >= total:
        return
    distributed.require_devices(experiment.layout.shards)
    step = experiment.train_step()
    state = experiment.layout.replicate(state)
    progress.say("the first iteration also compiles ...")
    while done < total:
        values, state = timed(step, state, experiment)
        done += 1
        yield StepInfo(state, done, total, values, training_line(values), done % config.log.every == 0 or done == total)


def timed(step: rl.RLStep, state: rl.RLState, experiment: Experiment) -> tuple[dict[str, float], rl.RLState]:
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


def training_line(values: Mapping[str, float]) -> str:
    """The returns before and after updates, as they are shown while training."""
    returns = [value for name, value in values.items() if name.startswith("return_")]
    parts = [f"return {' → '.join(f'{value:.1f}' for value in returns)}"]
    if values.get("broken"):
        parts.append(f"{values['broken']:.0f} broken")
    if values.get("accepted") == 0:
        parts.append("no step")
    return "  ".join(parts)
