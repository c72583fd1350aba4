"""One sitting with a run in reinforcement learning."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from innerloop import rl
from innerloop.rl import RLState
from innerloop.runs import codec, machine
from innerloop.runs.aside import Aside
from innerloop.runs.best import Validated
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, Section, Table
from innerloop.runs.workload import Examined, StepInfo
from innerloop.workloads.reinforcement import predict, report, scoring, training
from innerloop.workloads.reinforcement.build import Experiment, build
from innerloop.workloads.reinforcement.config import Config, Evaluation


class ReinforcementSession:
    """One sitting with a run in reinforcement learning.

    Args:
        experiment: what is trained.
        progress: what is said meanwhile.
    """

    unit = "iteration"

    def __init__(self, experiment: Experiment, progress: Progress):
        self.experiment, self.progress = experiment, progress
        self.config = experiment.config
        self.settings = codec.training_settings(self.config)
        self.tasks_per_step = self.config.outer.meta_batch
        self.rates = {
            "--inner.learning-rate": self.config.inner.learning_rate,
            "--outer.learning-rate": self.config.outer.learning_rate,
        }
        self.costs: dict[str, Any] = {}

    @classmethod
    def open(cls, config: Config, progress: Progress, *, resolve: bool) -> "ReinforcementSession":
        """Make the environments and the policy, and note on how many devices tasks are spread if that is left open."""
        machine.set_up(config.layout.shards)
        experiment = build(config)
        if resolve:
            layout = replace(config.layout, shards=experiment.layout.shards)
            experiment = replace(experiment, config=replace(config, layout=layout))
        return cls(experiment, progress)

    def describe(self) -> list[str]:
        config = self.config
        updates = f"{config.inner.steps} inner {'update' if config.inner.steps == 1 else 'updates'}"
        return [
            f"{config.environment}: {config.outer.iterations:,} iterations of {config.outer.meta_batch} tasks x "
            f"{config.sampling.episodes} episodes, {updates} of {config.inner.learning_rate:g}"
        ]

    def plan(self) -> list[str]:
        config = self.config
        episodes = config.outer.meta_batch * config.sampling.episodes * (config.inner.steps + 1)
        return [f"{episodes * self.experiment.horizon:,} steps of {config.environment} in an iteration"]

    def init(self) -> RLState:
        return training.initial_state(self.experiment)

    def begun(self, state: RLState) -> RLState:
        return state._replace(key=self.init().key)

    def step_of(self, state: RLState) -> int:
        return int(state.step)

    def learned(self, state: RLState) -> Any:
        return state.meta

    def steps(self, state: RLState) -> Iterator[StepInfo]:
        return training.train(self.experiment, state, self.progress)

    def examined(self, state: RLState, step: int) -> Examined:
        before = state._replace(step=jnp.asarray(step, jnp.int32))
        drawn = rl.tasks_of(self.experiment.env, before, self.config.outer.meta_batch)
        return Examined(before, [], {"tasks": np.asarray(drawn)})

    def evaluate(self, state: RLState, aside: Path, best: Sequence[Validated] = ()) -> Result:
        return scoring.score(self.experiment.alone(), state.meta, Aside(aside, self.config.log, self.progress))

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        return report.tables(result, self.config)

    def remarks(self, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
        return result["simpler"]

    def sections(
        self, state: RLState, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> list[Section]:
        evaluation = codec.decoded(Evaluation, result["settings"])
        measured = replace(self.experiment.alone(), config=replace(self.config, evaluation=evaluation))
        return report.sections(measured, state.meta, result, records)

    def export(self, state: RLState, folder: Path, result: Mapping[str, Any] | None) -> None:
        predict.export(self.experiment, state.meta, folder, result)
