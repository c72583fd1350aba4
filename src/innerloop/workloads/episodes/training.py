"""Meta-training on episodes as a sequence of states, pure of files."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from innerloop.core.evaluate import evaluate
from innerloop.core.outer import MetaState
from innerloop.runs import distributed
from innerloop.runs.machine import compile_clock
from innerloop.runs.progress import Progress
from innerloop.runs.workload import StepInfo
from innerloop.workloads.episodes import memory
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import Config

VALIDATION_TASKS = 200
VALIDATION_PHANTOMS = 20
"""Fewer, where each is an image to be fitted."""
VALIDATION_SEED = 10_000
NEAR = 0.1
"""A relative gradient at the end of the inner loop up to which it counts as a minimum."""


def initial_state(experiment: Experiment) -> MetaState:
    """The state before the first meta-step, which the seed fixes."""
    return experiment.initial_state()


def train(experiment: Experiment, state: MetaState, progress: Progress, costs: dict[str, Any]) -> Iterator[StepInfo]:
    """Take meta-steps to the end; a state that was handed out must not be used once the next one is asked for.

    Args:
        experiment: what is trained.
        state: where training stands.
        progress: told that compiling takes a while.
        costs: gets the seconds that compiling took and the bytes that a meta-step needs.

    Raises:
        InnerloopError: if the device has too little memory.
    """
    config = experiment.config
    done, total = int(state.step), config.outer.iterations
    if done >= total:
        return
    layout = experiment.layout
    distributed.require_devices(layout.shards)
    tasks = layout.replicate(experiment.training_tasks())
    state = layout.divide(state)
    with progress.timed("compiling the meta-step"), compile_clock() as compiling:
        steps = memory.compiled_steps(experiment, state, tasks)
    needed = memory.memory_of(steps)
    memory.require_fit(needed, experiment)
    costs |= {"compile_seconds": compiling.seconds, **needed._asdict()}
    distributed.from_all(None)  # all have compiled; sets of devices that are new meet soon enough for gloo
    validate = Validation(experiment) if config.log.validate_every else None
    while done < total:
        count = min(config.log.every - done % config.log.every, total - done)
        state, metrics = steps(state, tasks, np.int32(count))
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        done += count
        score = None
        if validate and (done % (config.log.every * config.log.validate_every) == 0 or done == total):
            found = validate(state.meta)
            score = validate.score(found)
            values |= found
        yield StepInfo(state, done, total, values, training_line(values), score=score)


class Validation:
    """The score on held-out tasks while training goes on.

    Args:
        experiment: what is trained.
    """

    def __init__(self, experiment: Experiment):
        experiment = experiment.at_test()
        config = experiment.config
        metric, _, _ = experiment.scale_metric()
        self._decides = f"validation/{next(iter(experiment.eval_losses))}/{metric}"
        self._sign = -1.0 if metric == "loss" else 1.0
        tasks = experiment.distribution("val", config.evaluation.shots[0], config.test_queries)
        self._layout = experiment.layout
        self._tasks = self._layout.replicate(tasks)
        self._key = jax.random.key(VALIDATION_SEED, impl="threefry2x32")
        self._evaluate = jax.jit(
            partial(
                evaluate,
                experiment.loss,
                rule=experiment.rule,
                steps=experiment.test_steps,
                num_tasks=VALIDATION_PHANTOMS if config.network.kind == "field" else VALIDATION_TASKS,
                query_losses=experiment.eval_losses,
                layout=self._layout,
                adjoint=experiment.forward,
                last=True,
            ),
            out_shardings=self._layout.whole,
        )

    def __call__(self, meta: Any) -> dict[str, float]:
        curves = self._evaluate(self._layout.replicate(meta), self._tasks, self._key)
        return {f"validation/{name}": float(np.mean(np.asarray(curve)[:, -1])) for name, curve in curves.items()}

    def score(self, values: Mapping[str, float]) -> float:
        """Of what a call gave, the number by which trainings are compared: more is better."""
        return self._sign * values[self._decides]


def training_line(values: Mapping[str, float]) -> str:
    """Loss and accuracy before and after adaptation, as they are shown while training."""
    parts = []
    for name, factor, unit in (("loss", 1.0, ""), ("accuracy", 100.0, "%")):
        after, before = values.get(f"{name}_after"), values.get(f"{name}_before")
        if after is not None:
            start = f"{before * factor:.3g}{unit}→" if before is not None else ""
            parts.append(f"{name if name == 'loss' else 'acc'} {start}{after * factor:.3g}{unit}")
    if values.get("unsolved"):
        parts.append(f"{values['unsolved']:.0%} unsolved")
    return "  ".join(parts)


def remarks(records: Sequence[Mapping[str, Any]], config: Config) -> list[str]:
    """What a user should know of how training went, in sentences: whether implicit gradients can be trusted."""
    told = [record for record in records if "unsolved" in record]
    if not told:
        return []
    unsolved, rest = (float(np.mean([record[name] for record in told])) for name in ("unsolved", "stationarity"))
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
