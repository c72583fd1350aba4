"""One sitting with a run whose inner loop is long."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import artifacts
from innerloop.core.outer import MetaState, finite_tasks, init, meta_step, repeat
from innerloop.runs import codec, machine, simpler
from innerloop.runs.best import Validated
from innerloop.runs.machine import compile_clock
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, Section, Table
from innerloop.runs.workload import Examined, StepInfo
from innerloop.workloads.streams import digits, digits_report, digits_scoring, reading, reading_report, reading_scoring
from innerloop.workloads.streams.config import Config, DigitTasks
from innerloop.workloads.streams.digits import Digits
from innerloop.workloads.streams.problem import Judge, Problem, comparables, optimizer
from innerloop.workloads.streams.reading import Reading

KIND = "streams"
"""Of the exported model."""


class StreamsSession:
    """One sitting with a run whose inner loop is long.

    Args:
        problem: what is learned.
        judge: how it is scored and shown.
        progress: what is said meanwhile.
    """

    unit = "meta-step"

    def __init__(self, problem: Problem, judge: Judge, progress: Progress):
        self.problem, self.judge, self.progress = problem, judge, progress
        self.config = problem.config
        self.settings = {**codec.training_settings(self.config), "data": problem.fingerprint}
        self.tasks_per_step = self.config.outer.meta_batch
        self.rates = {
            "--inner.learning-rate": self.config.inner.learning_rate,
            "--outer.learning-rate": self.config.outer.learning_rate,
        }
        self.costs: dict[str, Any] = {}
        self._optimizer = optimizer(self.config.outer)

    @classmethod
    def open(cls, config: Config, progress: Progress) -> "StreamsSession":
        """Read or draw the data."""
        machine.set_up(1)
        if isinstance(config.tasks, DigitTasks):
            judge = Judge(digits_scoring.score, digits_report.tables, digits_report.sections, digits.SIMPLER)
            return cls(Digits.open(config), judge, progress)
        judge = Judge(reading_scoring.score, reading_report.tables, reading_report.sections, reading.SIMPLER)
        return cls(Reading.open(config), judge, progress)

    def describe(self) -> list[str]:
        return [self.problem.describe()]

    def plan(self) -> list[str]:
        config = self.config
        return [f"{config.outer.iterations:,} meta-steps, {config.outer.meta_batch:,} inner loops in each"]

    def init(self) -> MetaState:
        params_key, run_key = jax.random.split(jax.random.key(self.config.seed, impl="threefry2x32"))
        return init(self.problem.init(params_key), self.problem.rule, self._optimizer, run_key)

    def begun(self, state: MetaState) -> MetaState:
        return state._replace(key=self.init().key, step=jnp.zeros((), jnp.int32))

    def step_of(self, state: MetaState) -> int:
        return int(state.step)

    def learned(self, state: MetaState) -> Any:
        return state.meta

    def steps(self, state: MetaState) -> Iterator[StepInfo]:
        """Train on from a state, which must not be used once the next one is asked for."""
        config, tasks = self.config, self.problem.tasks
        done, total = int(state.step), config.outer.iterations
        if done >= total:
            return
        with self.progress.timed("compiling the meta-step"), compile_clock() as compiling:
            steps = self._steps().lower(state, tasks, np.int32(1)).compile()
        self.costs["compile_seconds"] = compiling.seconds
        while done < total:
            count = min(config.log.every - done % config.log.every, total - done)
            state, metrics = steps(state, tasks, np.int32(count))
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            done += count
            yield StepInfo(state, done, total, values, self.problem.line(values))

    def _steps(self) -> Any:
        step = meta_step(self.problem.meta_loss, self._optimizer, meta_batch=self.config.outer.meta_batch)
        return jax.jit(repeat(step), donate_argnums=0)

    def examined(self, state: MetaState, step: int) -> Examined:
        before = state._replace(step=jnp.asarray(step, jnp.int32))
        number = self.config.outer.meta_batch
        finite, drawn = jax.jit(finite_tasks(self.problem.meta_loss, meta_batch=number))(before, self.problem.tasks)
        names = [f"task {i}" for i in np.flatnonzero(~np.asarray(finite))]
        leaves = jax.tree.leaves_with_path(drawn)
        return Examined(before, names, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})

    def evaluate(self, state: MetaState, aside: Path, best: Sequence[Validated] = ()) -> Result:
        found = self.judge.score(self.problem, state.meta, self.progress)
        scores = comparables(found.values, found.scores)
        as_well = simpler.remarks(scores, self.judge.simpler, digits=2)
        return Result({**found.values, "simpler": as_well}, found.scores)

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        return self.judge.tables(result)

    def remarks(self, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
        return result["simpler"]

    def sections(
        self, state: MetaState, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> list[Section]:
        return self.judge.sections(self.problem, state.meta, result, records)

    def export(self, state: MetaState, folder: Path, result: Mapping[str, Any] | None) -> None:
        config = self.config
        rows = [f"- {row['name']}: {row['score']['mean']:.4g}" for row in (result or {}).get("rows", [])]
        card = "\n".join(
            [
                f"# {config.recipe}, {config.algorithm}, seed {config.seed}",
                "",
                self.problem.describe() + ".",
                "",
                *([f"{result['title']}:", "", *rows] if result else []),
                "",
            ]
        )
        values = {"configuration": codec.encoded(config), "commit": machine.commit()}
        artifacts.write(folder, KIND, values, state.meta._asdict(), card)
