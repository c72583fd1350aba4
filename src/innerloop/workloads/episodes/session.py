"""One sitting with a run on episodes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.core.outer import MetaState
from innerloop.core.trees import arrays_of
from innerloop.runs import codec, machine
from innerloop.runs.best import Validated
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, Section, Table, counted
from innerloop.runs.workload import Examined, StepInfo
from innerloop.workloads.episodes import memory, predict, report, scoring, training, tune
from innerloop.workloads.episodes.build import Experiment, assemble, build
from innerloop.workloads.episodes.config import Config, Evaluation


class EpisodesSession:
    """One sitting with a run on episodes.

    Args:
        experiment: what is trained.
        progress: what is said meanwhile.
        candidates: the ways to compute a meta-step among which one was chosen.
    """

    unit = "meta-step"

    def __init__(self, experiment: Experiment, progress: Progress, candidates: Sequence[tune.Candidate] = ()):
        self.experiment, self.progress, self._candidates = experiment, progress, candidates
        self.config = experiment.config
        self.settings = codec.training_settings(self.config) | experiment.data.settings()
        self.tasks_per_step = self.config.outer.meta_batch
        self.rates = {
            "--inner.learning-rate": self.config.inner.learning_rate,
            "--outer.learning-rate": self.config.outer.learning_rate,
        }
        self.costs: dict[str, Any] = {}

    @classmethod
    def open(cls, config: Config, progress: Progress, *, resolve: bool) -> "EpisodesSession":
        """Load the data, and choose how a meta-step is computed where that is left open."""
        machine.set_up(config.layout.shards, config.network.precision, config.layout.parameters)
        experiment = build(config, progress.say)
        experiment.require_tasks()
        candidates = []
        if resolve:
            candidates = tune.measured(experiment, progress.say)
            experiment = assemble(replace(config, layout=tune.best(candidates)), experiment.data)
            if config.network.kind != "mlp" and not experiment.config.layout.chunk:
                experiment = memory.fitted(experiment, training.initial_state(experiment), progress.say)
        return cls(experiment, progress, candidates)

    def describe(self) -> list[str]:
        config = self.config
        inner = f"{counted(config.inner.steps, 'inner step')} of {config.inner.learning_rate:g}"
        if self.experiment.algorithm.network == "prototypes":
            inner = "each class at the mean of its examples"
        return [
            f"{config.outer.iterations:,} meta-steps of {counted(config.outer.meta_batch, 'task')}, {inner}",
            f"computed: {tune.in_words(config.layout)}",
            *(f"note: {remark}" for remark in self.experiment.remarks()),
        ]

    def plan(self) -> list[str]:
        return [
            tune.describe(self._candidates),
            f"matrix products: {'row-major' if self.experiment.layout.rewrites_products else 'as written'}, "
            f"see --layout.products ({self.config.layout.products})",
            memory.describe(self.experiment, training.initial_state(self.experiment)),
        ]

    def init(self) -> MetaState:
        return training.initial_state(self.experiment)

    def begun(self, state: MetaState) -> MetaState:
        return state._replace(key=self.init().key)

    def step_of(self, state: MetaState) -> int:
        return int(state.step)

    def learned(self, state: MetaState) -> Any:
        return state.meta

    def steps(self, state: MetaState) -> Iterator[StepInfo]:
        return training.train(self.experiment, state, self.progress, self.costs)

    def examined(self, state: MetaState, step: int) -> Examined:
        before = state._replace(step=jnp.asarray(step, jnp.int32))
        tasks = self.experiment.layout.replicate(self.experiment.training_tasks())
        finite, drawn = jax.jit(self.experiment.learner.finite_tasks)(before, tasks)
        names = [f"task {index}" for index in np.flatnonzero(~np.asarray(finite))]
        return Examined(before, names, arrays_of(drawn))

    def seconds_per_step(self) -> float:
        """The time of a meta-step, averaged over training."""
        return tune.mean_seconds(self.experiment)

    def evaluate(self, state: MetaState, aside: Path, best: Sequence[Validated] = ()) -> Result:
        last = Validated(self.step_of(state), float("nan"), state.meta)
        return scoring.score(self.experiment.at_test().alone(), last, self.progress, best)

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        return report.tables(result, self.config)

    def remarks(self, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
        of_training = training.remarks(records, self.config)
        return [*self.experiment.remarks(), *of_training, *self._best(result), *result["simpler"]]

    def _best(self, result: Mapping[str, Any]) -> list[str]:
        """Which meta-step was best on validation tasks."""
        steps = [each["step"] for each in result.get("best", ())]
        return [f"the best validation score is that of meta-step {steps[0]:,}"] if steps else []

    def sections(
        self, state: MetaState, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> list[Section]:
        evaluation = codec.decoded(Evaluation, result["settings"])
        measured = replace(self.experiment, config=replace(self.config, evaluation=evaluation)).at_test()
        return report.sections(measured.alone(), state.meta, result, records)

    def export(self, state: MetaState, folder: Path, result: Mapping[str, Any] | None) -> None:
        predict.export(self.experiment, state.meta, folder, result)
