"""One sitting with a run on a user's own tasks."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from innerloop.core.trees import arrays_of
from innerloop.errors import InnerloopError
from innerloop.runs import machine
from innerloop.runs.best import Validated
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, Section, Table
from innerloop.runs.workload import Examined, StepInfo
from innerloop.tabular.artifact import TrainedLearner, save
from innerloop.tabular.calibration import Settled, settled
from innerloop.tabular.fit import Fit
from innerloop.tabular.prepare import Prepared, prepare
from innerloop.tabular.selection import selected
from innerloop.text import listed, nearest
from innerloop.workloads.tabular import evaluation, loading, report, training
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.defaults import choices_of, resolved

SELECTION = 0.5
"""The share of the time limit that choosing a design may take, with the pooled model."""


class TabularSession:
    """One sitting with a run on a user's own tasks.

    Args:
        config: the configuration.
        data: rows of tasks, split and planned for.
        reasons: what was decided on the way, a line each.
        progress: what is said meanwhile.
        spent: seconds of the time limit that went by before training.
    """

    unit = "meta-step"

    def __init__(self, config: Config, data: Prepared, reasons: Sequence[str], progress: Progress, spent: float = 0.0):
        self.spent = spent
        self.config, self.data, self.progress = config, data, progress
        self.settings = training.settings_of(config, data)
        self.tasks_per_step = config.training.meta_batch
        self.rates = {
            "--training.learning-rate": data.plan.schedule.learning_rate,
            "--learner.learning-rate": config.learner.learning_rate,
        }
        self.costs: dict[str, Any] = {}
        self._reasons = reasons
        self._fitting = data.fitting()
        self._settled: dict[int, Settled] = {}

    @classmethod
    def open(cls, config: Config, progress: Progress, *, resolve: bool = False) -> "TabularSession":
        """Read the data, split them by task, and choose what the configuration leaves open.

        Args:
            config: a checked configuration.
            progress: told what is read and chosen.
            resolve: whether validation tasks choose the design, and the choice is kept in the configuration.
        """
        if not Path(config.data).exists():
            near = [entry.name for entry in Path(config.data).parent.glob("*")]
            moved = "" if resolve else " If it was moved, say where it is: --data FILE."
            told = nearest(Path(config.data).name, near)
            raise InnerloopError(f"There is no file or folder {config.data}; {told}{moved}")
        machine.set_up(1)
        with progress.timed(f"reading {config.data}"):
            loaded = loading.load(config)
        began = time.monotonic()
        with progress.timed("fitting features and the pooled model"):
            data = prepare(loaded.rows, choices_of(config))
        if resolve:
            allowed = math.inf if config.seconds is None else SELECTION * config.seconds
            data = selected(data, progress.say, seconds=allowed - (time.monotonic() - began))
            config = replace(resolved(config, data.plan.design), data=str(Path(config.data).resolve()))
        return cls(config, data, (*loaded.reasons, *loaded.rows.notes), progress, time.monotonic() - began)

    def describe(self) -> list[str]:
        lines = (*self._reasons, *described_tasks(self.config, self.data), *self.data.plan.reasons)
        return [f"  {line}" for line in lines]

    def plan(self) -> list[str]:
        return []

    def init(self) -> Fit:
        return self._fitting.start(self.config.seed)

    def begun(self, state: Fit) -> Fit:
        state = state._replace(state=state.state._replace(key=self.init().state.key))
        return self._fitting.limited(state, self.data.plan.schedule.iterations)

    def step_of(self, state: Fit) -> int:
        return int(state.state.step)

    def learned(self, state: Fit) -> Any:
        return state.state.meta

    def steps(self, state: Fit) -> Iterator[StepInfo]:
        return training.train(self.config, self.data, self._fitting, state, self.progress, self.spent)

    def examined(self, state: Fit, step: int) -> Examined:
        before = state._replace(state=state.state._replace(step=jnp.asarray(step, jnp.int32)))
        finite, drawn, tasks = self._fitting.examined(before)
        names = self.data.names_of(np.unique(tasks[~finite]))
        return Examined(before, [f"task {name}" for name in names], arrays_of(drawn))

    def evaluate(self, state: Fit, aside: Path, best: Sequence[Validated] = ()) -> Result:
        untrained = self.data.learned(self._fitting.start(self.config.seed).best)
        found = evaluation.score(self.config, self.data, self._learner(state), self.progress, untrained)
        step = int(state.best_step)
        values = {
            "best_step": step,
            "trained": self._settled[step].trained,
            "settings": asdict(self.config.evaluation),
            **found.values,
        }
        return Result(values, found.scores)

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        return report.tables(result, self.config)

    def remarks(self, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
        verdict = [result["verdict"]] if result.get("verdict") else []
        if not result.get("trained", True):  # which older results lack
            verdict.append("training gained nothing certain on validation tasks, so the untrained learner was taken")
        if self.config.evaluation.baselines and not find_spec("sklearn"):
            return [*verdict, "no baselines: they need scikit-learn; install it with: pip install 'innerloop[tabular]'"]
        return verdict

    def sections(self, state: Fit, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Section]:
        return report.sections(self.data, result, records)

    def export(self, state: Fit, folder: Path, result: Mapping[str, Any] | None) -> None:
        save(self._learner(state, self._facts(result)), folder)

    def _learner(self, state: Fit, facts: Mapping[str, Any] | None = None) -> TrainedLearner:
        step, data = int(state.best_step), self.data
        if step not in self._settled:
            sizes = sorted({*data.plan.supports, *data.plan.sizes})
            untrained = data.learned(self._fitting.start(self.config.seed).best)
            self._settled[step] = settled(untrained, data.learned(state.best), data.parts.get("valid"), sizes)
        return replace(self._settled[step].learned, facts=dict(facts or {}))

    def _facts(self, result: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the model card says."""
        config, parts = self.config, self.data.parts
        counts = {part: f"{len(rows.names):,} tasks, {len(rows.target):,} rows" for part, rows in parts.items()}
        measured = result or {}
        return {
            "name": config.recipe,
            "target": config.target,
            "task_column": config.task_column,
            "data": {"file": Path(config.data).name, **counts},
            "verdict": measured.get("verdict", ""),
            "scores": (measured.get("tables") or {}).get("rows", []),
            "meta_steps": measured.get("meta_steps"),
            "seed": config.seed,
            "versions": machine.description()["versions"],
            "commit": machine.commit(),
        }


def described_tasks(config: Config, data: Prepared) -> list[str]:
    """What is said of the split and of tasks that are left out."""
    if data.plan.design.image and len(data.parts["train"].names) == 1:
        counts = {part: len(set(rows.target.tolist())) for part, rows in data.parts.items()}
        told = f"classes: {', '.join(f'{number} for {part}' for part, number in counts.items())}"
    else:
        counts = {part: len(rows.names) for part, rows in data.parts.items()}
        told = f"tasks: {', '.join(f'{number:,} for {part}' for part, number in counts.items())}"
    by = f"--split-column {config.split_column}" if config.split_column else f"seed {config.seed}"
    lines = [f"{told} (by {by})"]
    if data.left_out:
        shown = listed([f"{name}: {why}" for name, why in data.left_out])
        lines.append(f"{len(data.left_out):,} tasks are left out ({shown})")
    return lines
