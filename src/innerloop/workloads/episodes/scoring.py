"""The evaluation of a run: adaptation curves on fixed test tasks, beside the baselines of the paper."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from textwrap import wrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from innerloop import tasks
from innerloop.core import algorithms, losses, outer, rules
from innerloop.core.algorithms.learner import adapted_leaves
from innerloop.core.evaluate import evaluate, summarise
from innerloop.core.layout import Layout
from innerloop.core.trees import path_name
from innerloop.runs.progress import Progress
from innerloop.runs.rundir import Run, commit, write_bytes, write_text
from innerloop.types import Meta, Params, TaskDistribution
from innerloop.workloads.episodes import training
from innerloop.workloads.episodes.build import Experiment, assemble, network, outer_optimizer
from innerloop.workloads.episodes.config import Config, Variant
from innerloop.workloads.episodes.config import Layout as LayoutSettings
from innerloop.workloads.episodes.recipes import Published, published_beside

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Step sizes among which a baseline chooses by its score on validation tasks."""
RATE_TASKS = 100
RATE_SEED = 20_000
BASELINE_SEED = 30_000
BATCH = 128
"""Images in a batch of the pre-training."""
LARGE = 1e5
"""From here on a score is shown with two digits and its power of ten."""

SCRATCH = "random initialisation"
PRETRAINED = "pre-trained on all tasks"


def score(run: Run, experiment: Experiment, meta: Meta, step: int, progress: Progress) -> dict[str, Any]:
    """Evaluate a trained run and write `evaluation.json`.

    Args:
        run: where it is written.
        experiment: what was trained; its `config.evaluation` says what is measured.
        meta: what was learned.
        step: after how many meta-steps.
        progress: what is said meanwhile.

    Returns:
        What was written: for each number of shots a table of methods, with every metric after 0, 1, ..., k inner steps.
        The scores of the single tasks are written to `scores.safetensors`.
    """
    config = experiment.config
    settings = config.evaluation
    curves = Curves(experiment)
    contestants: list[tuple[str, Curves, Params, bool]] = [(config.algorithm, curves, meta, False)]
    if settings.baselines:
        # The network itself, without what the algorithm asks of it: the baselines are the same for every algorithm.
        plain = assemble(
            replace(config, algorithm="maml", variant=Variant(), layout=_any_adjoint(config)), experiment.data
        )
        with progress.timed(f"pre-training the baseline ({settings.baseline_iterations:,} steps)"):
            pretrained = pretrain(plain, settings.baseline_iterations)
        scratch = plain.model.init(_key(BASELINE_SEED + config.seed))
        others = Curves(plain)
        contestants += [(SCRATCH, others, scratch, True), (PRETRAINED, others, pretrained, True)]

    tables = []
    for shots in settings.shots:
        with progress.timed(f"evaluating {len(contestants)} methods on {settings.tasks} test tasks with {shots} shots"):
            rows = [
                row
                for method, each, learned, choose_rate in contestants
                for row in each.rows(method, learned, shots, choose_rate=choose_rate)
            ]
        tables.append({"shots": shots, "rows": rows})
    metric, factor, unit = experiment.scale_metric()
    result = {
        "recipe": config.recipe,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "meta_steps": step,
        "metric": metric,
        "factor": factor,
        "unit": unit,
        "settings": asdict(settings),
        "test_tasks": settings.tasks,
        "test_seed": settings.seed,
        "queries": settings.queries,
        "commit": commit(),
        "remarks": [*experiment.remarks(), *training.remarks(run.records(), config)],
        "tables": tables,
    }
    kept = {
        name: scores for each in dict.fromkeys(each[1] for each in contestants) for name, scores in each.kept.items()
    }
    write_bytes(run.scores, safetensors.numpy.save(kept))
    write_text(run.evaluation, json.dumps(result, indent=1))
    return result


def score_name(method: str, judge: str, shots: int) -> str:
    """What the scores of the single tasks are called in `scores.safetensors`: arrays `[tasks, steps + 1]`."""
    return f"{method}/{judge}/{shots}"


class Curves:
    """Adaptation curves on validation and test tasks; each shape is compiled once.

    Attributes:
        kept: the scores of the single test tasks, see `score_name`.
    """

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._settings = experiment.config.evaluation
        layout = experiment.layout
        self._layout = Layout(layout.shards, layout.chunk or 50)
        self._tuned = adapted_leaves(
            rules.trainable(lambda rate: optax.sgd(rate), 0.0),
            experiment.model,
            adapt_normalisation=experiment.config.network.adapt_normalisation,
        )
        self._compiled: dict[tuple[bool, int], Callable[..., Any]] = {}
        self._tasks: dict[tuple[str, int], TaskDistribution] = {}
        self.kept: dict[str, np.ndarray] = {}

    def rows(self, method: str, learned: Any, shots: int, *, choose_rate: bool) -> list[dict[str, Any]]:
        """One row for each judge (transductive, inductive) of one method.

        Args:
            method: its name.
            learned: the meta-parameters, or, of a baseline, the initial parameters.
            shots: support examples of each test task.
            choose_rate: whether the step size is chosen on validation tasks, as for a baseline.
        """
        rate = self._experiment.config.inner.learning_rate
        if choose_rate:
            rate = self._best_rate(learned, shots)
            learned = Meta(learned, jnp.asarray(rate))
        curves = self._run(learned, "test", shots, self._settings.tasks, _key(self._settings.seed), choose_rate)
        judges = list(self._experiment.eval_losses)
        metric = self._experiment.scale_metric()[0]
        for judge in judges:
            self.kept[score_name(method, judge, shots)] = np.ascontiguousarray(curves[f"{judge}/{metric}"], np.float32)
        return [
            {
                "method": method,
                "judge": judge,
                "learning_rate": rate,
                "metrics": {
                    name.removeprefix(f"{judge}/"): {"mean": mean.tolist(), "interval": interval.tolist()}
                    for name, values in curves.items()
                    if name.startswith(f"{judge}/")
                    for mean, interval in [summarise(values)]
                },
            }
            for judge in judges
        ]

    def _best_rate(self, params: Params, shots: int) -> float:
        metric = self._experiment.scale_metric()[0]
        judge = next(iter(self._experiment.eval_losses))
        scores = []
        for rate in RATES:
            curves = self._run(Meta(params, jnp.asarray(rate)), "val", shots, RATE_TASKS, _key(RATE_SEED), tuned=True)
            final = float(np.mean(np.asarray(curves[f"{judge}/{metric}"])[:, -1]))
            scores.append(np.nan_to_num(-final if metric == "loss" else final, nan=-np.inf))
        return RATES[int(np.argmax(scores))]

    def _run(self, meta: Meta, part: Any, shots: int, count: int, key: Any, tuned: bool) -> dict[str, np.ndarray]:
        if (part, shots) not in self._tasks:
            distribution = self._experiment.distribution(part, shots, self._settings.queries)
            self._tasks[part, shots] = self._layout.replicate(distribution)
        if (tuned, count) not in self._compiled:
            self._compiled[tuned, count] = jax.jit(
                partial(
                    evaluate,
                    self._experiment.loss,
                    rule=self._tuned if tuned else self._experiment.rule,
                    steps=self._settings.steps,
                    num_tasks=count,
                    query_losses=self._experiment.eval_losses,
                    layout=self._layout,
                    adjoint=self._experiment.forward,
                )
            )
        curves = self._compiled[tuned, count](self._layout.replicate(meta), self._tasks[part, shots], key)
        return {name: np.asarray(values) for name, values in curves.items()}


def pretrain(experiment: Experiment, iterations: int) -> Params:
    """One network for all training tasks at once: what the paper fine-tunes for comparison.

    Regression: joint training on the pooled tasks. Classification: the network with an output for every training class,
    trained on batches of images; its head is then replaced by zeros, since the classes of a test task are new. The
    optimiser is the configured one, with its schedule over these iterations.
    """
    config = experiment.config
    params_key, run_key, head_key = jax.random.split(_key(BASELINE_SEED + config.seed), 3)
    if config.kind == "regression":
        model, loss, batch = experiment.model, experiment.loss, config.outer.meta_batch
        source = experiment.training_tasks()
    else:
        images = (experiment.data.parts or {})["train"]
        classes, labels = np.unique(images.y, return_inverse=True)
        model, batch = network(config, outputs=len(classes)), experiment.layout.shards
        loss = losses.supervised(model, losses.cross_entropy)
        source = tasks.Batches.from_labels(images.x, labels.astype(np.int32), size=BATCH // batch)
    joint = algorithms.build(algorithms.algorithm("joint"), loss, rule=rules.sgd(0.0), steps=0)
    layout = Layout(experiment.layout.shards)
    optimizer = outer_optimizer(replace(config, outer=replace(config.outer, iterations=iterations)))
    step = outer.meta_step(joint, optimizer, meta_batch=batch, layout=layout)
    state = layout.replicate(outer.init(model.init(params_key), rules.sgd(0.0), optimizer, run_key))
    steps = jax.jit(outer.repeat(step), donate_argnums=0)
    state, _ = steps(state, layout.replicate(source), np.int32(iterations))
    if config.kind == "regression":
        return state.meta.params
    fresh = experiment.model.init(head_key)

    def choose(path: Any, new: Any, old: Any) -> Any:
        return jnp.zeros_like(new) if "head" in path_name(path).split("/") else old

    return jax.tree.map_with_path(choose, fresh, state.meta.params)


def cell(result: dict[str, Any], row: dict[str, Any], step: int) -> str:
    """A score after a number of inner steps with its interval, in the unit of the result; nothing beyond the last."""
    values, factor = row["metrics"][result["metric"]], result["factor"]
    if step >= len(values["mean"]):
        return ""
    digits = result.get("digits", 2 if factor == 1 else 1)
    mean, interval = (in_digits(values[each][step] * factor, digits) for each in ("mean", "interval"))
    return f"{mean} ± {interval}"


def in_digits(value: float, digits: int, sign: str = "") -> str:
    """A number with so many digits behind the point; with two and a power of ten if training diverged."""
    return f"{value:{sign}.{digits}f}" if abs(value) < LARGE else f"{value:{sign}.2g}"


def row_name(row: dict[str, Any]) -> str:
    """What a row is called: its method and, where there are two, its judge."""
    return row["method"] if row["judge"] == "query" else f"{row['method']}, {row['judge']}"


def shown_steps(table: dict[str, Any], metric: str, published: Sequence[Published]) -> list[int]:
    """The numbers of inner steps that a table shows: the ends, one, five, and those of the published figures."""
    last = len(table["rows"][0]["metrics"][metric]["mean"]) - 1
    return sorted(step for step in {0, 1, 5, last, *(each.steps for each in published)} if step <= last)


def as_text(result: dict[str, Any]) -> str:
    """The evaluation as a table within 80 columns, beside the published figures of the recipe."""
    published = published_beside(result["recipe"], result["algorithm"])
    lines, sources = [], []
    for table in result["tables"]:
        here = [each for each in published if each.shots == table["shots"]]
        steps = shown_steps(table, result["metric"], here)[-4:]
        shown = [cell(result, row, step) for row in table["rows"] for step in steps]
        width = max(13, 2 + max(map(len, shown)), *(1 + len(each.text) for each in here))
        name_width = 80 - width * len(steps)
        head = "".join(f"{f'after {step}':>{width}}" for step in steps)
        title = f"{table['shots']}-shot, {result['unit']}"
        lines += ["", f"{title[: name_width - 1]:<{name_width}}{head}"]
        for row in table["rows"]:
            cells = "".join(f"{cell(result, row, step):>{width}}" for step in steps)
            lines.append(f"{shortened(row_name(row), name_width - 1):<{name_width}}{cells}")
        for method in dict.fromkeys(each.method for each in here):
            figure_at = {each.steps: each for each in here if each.method == method}
            source = next(iter(figure_at.values())).source
            sources += [] if source in sources else [source]
            cells = "".join(f"{figure_at[step].text if step in figure_at else '':>{width}}" for step in steps)
            name = f"{shortened(method, name_width - 5)} [{sources.index(source) + 1}]"
            lines.append(f"{name:<{name_width}}{cells}")
    lines.append(f"mean and 95 % interval over {result['test_tasks']} test tasks, after so many inner steps")
    lines += [line for each in result.get("remarks", ()) for line in wrap(f"note: {each}", 80)]
    return "\n".join([*lines, *(f"[{i}] {source}" for i, source in enumerate(sources, 1))])


def shortened(text: str, width: int) -> str:
    """The text cut to a width, with an ellipsis if it does not fit."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _any_adjoint(config: Config) -> LayoutSettings:
    """The layout without a choice among derivatives, which the baselines do not take."""
    return replace(config.layout, adjoint="auto", loop="auto")


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="threefry2x32")
