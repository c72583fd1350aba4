"""The evaluation of a run: adaptation curves on fixed test tasks, beside the baselines of the paper."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from innerloop import algorithms, losses, outer, rules, tasks
from innerloop.evaluate import evaluate, summarise
from innerloop.experiment.build import Experiment, adapted_leaves, network, outer_optimizer
from innerloop.experiment.progress import Progress
from innerloop.experiment.recipes import RECIPES, Published
from innerloop.experiment.run import Run, commit, write_text
from innerloop.layout import Layout
from innerloop.trees import path_name
from innerloop.types import Meta, Params, TaskDistribution

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Step sizes among which a baseline chooses by its score on validation tasks."""
RATE_TASKS = 100
RATE_SEED = 20_000
BASELINE_SEED = 30_000
BATCH = 128
"""Images in a batch of the pre-training."""

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
    """
    config = experiment.config
    settings = config.evaluation
    curves = Curves(experiment)
    contestants: list[tuple[str, Params, bool]] = [(config.algorithm, meta, False)]
    if settings.baselines:
        with progress.timed(f"pre-training the baseline ({settings.baseline_iterations:,} steps)"):
            pretrained = pretrain(experiment, settings.baseline_iterations)
        scratch = experiment.model.init(_key(BASELINE_SEED + config.seed))
        contestants += [(SCRATCH, scratch, True), (PRETRAINED, pretrained, True)]

    tables = []
    for shots in settings.shots:
        with progress.timed(f"evaluating {len(contestants)} methods on {settings.tasks} test tasks with {shots} shots"):
            rows = [
                row
                for method, learned, choose_rate in contestants
                for row in curves.rows(method, learned, shots, choose_rate=choose_rate)
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
        "tables": tables,
    }
    write_text(run.evaluation, json.dumps(result, indent=1))
    return result


class Curves:
    """Adaptation curves on validation and test tasks; each shape is compiled once."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._settings = experiment.config.evaluation
        layout = experiment.layout
        self._layout = Layout(layout.shards, layout.chunk or 50)
        self._tuned = adapted_leaves(rules.learned(lambda rate: optax.sgd(rate), 0.0), experiment.config.network)
        self._compiled: dict[tuple[bool, int], Callable[..., Any]] = {}
        self._tasks: dict[tuple[str, int], TaskDistribution] = {}

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
        judges = list(self._experiment.judges)
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
        judge = next(iter(self._experiment.judges))
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
                    query_losses=self._experiment.judges,
                    layout=self._layout,
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
    return f"{values['mean'][step] * factor:.{digits}f} ± {values['interval'][step] * factor:.{digits}f}"


def row_name(row: dict[str, Any]) -> str:
    """What a row is called: its method and, where there are two, its judge."""
    return row["method"] if row["judge"] == "query" else f"{row['method']}, {row['judge']}"


def shown_steps(table: dict[str, Any], metric: str, published: Sequence[Published]) -> list[int]:
    """The numbers of inner steps that a table shows: the ends, one, five, and those of the published figures."""
    last = len(table["rows"][0]["metrics"][metric]["mean"]) - 1
    return sorted(step for step in {0, 1, 5, last, *(each.steps for each in published)} if step <= last)


def as_text(result: dict[str, Any]) -> str:
    """The evaluation as a table within 80 columns, beside the published figures of the recipe."""
    published = RECIPES[result["recipe"]].published if result["recipe"] in RECIPES else ()
    lines, sources = [], []
    for table in result["tables"]:
        here = [each for each in published if each.shots == table["shots"]]
        steps = shown_steps(table, result["metric"], here)[-4:]
        width = max(13, 2 + max(len(cell(result, row, step)) for row in table["rows"] for step in steps))
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
    return "\n".join([*lines, *(f"[{i}] {source}" for i, source in enumerate(sources, 1))])


def shortened(text: str, width: int) -> str:
    """The text cut to a width, with an ellipsis if it does not fit."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="threefry2x32")
