"""How well a learner adapts to tasks that it has not seen, beside models that see the same rows."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, estimate
from innerloop.runs.workload import Comparable
from innerloop.tabular import learner, rivals
from innerloop.tabular.artifact import TrainedLearner, pad, support_targets
from innerloop.tabular.episodes import ClassEpisodes, padded_size
from innerloop.tabular.features import Inputs, Preparation
from innerloop.tabular.learner import Adapted
from innerloop.tabular.prepare import Prepared
from innerloop.tabular.rivals import Rival
from innerloop.tabular.rows import Rows, rows_of
from innerloop.workloads.tabular.comparison import rival_scores, rivals_of
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.metrics import (
    LOWER_IS_BETTER,
    Draw,
    enough,
    judgeable,
    metrics_of,
    spread_of,
    stratified,
)
from innerloop.workloads.tabular.verdict import OURS, UNTRAINED, verdict

Method = Callable[[Inputs, np.ndarray, Sequence[tuple[np.ndarray, np.ndarray]]], dict[str, list[float]]]
"""`(features, target, draws) -> metrics`, averaged over the draws, after 0, 1, ..., k inner steps (or one value)."""

MOST_TASKS = 40
"""Test tasks that are evaluated, at most."""
EPISODES = 200
"""Episodes that are drawn from test images."""
SHARE = 0.95
"""What part of the time a stated interval covers the mean; results without it are of an older version."""


def score(
    config: Config,
    data: Prepared,
    learned: TrainedLearner,
    progress: Progress,
    untrained: TrainedLearner | None = None,
) -> Result:
    """Evaluate what was learned on the test tasks.

    Args:
        config: what is measured, in `evaluation`.
        data: rows of tasks, split and planned for.
        learned: the learner.
        progress: what is said meanwhile.
        untrained: the learner before training.

    Returns:
        `verdict`, a sentence; `tables`, see `evaluate`, or `None` if no task is held out for a test; and the scores of
        the single tasks, see `score_name`.
    """
    rows = data.parts.get("test")
    if rows is None:
        return Result({"tables": None, "verdict": ""})
    if rows.image:
        found = evaluate_images(learned, rows, config.ways, data.plan.sizes, data.plan.queries)
    else:
        if len(rows.names) > MOST_TASKS:
            # Where a column says which tasks are for the test, they are the same for all seeds.
            seed = 0 if config.split_column else config.seed
            rows = rows_of(rows, np.random.default_rng(seed).permutation(len(rows.names))[:MOST_TASKS].tolist())
        with progress.timed("fitting the models to compare with"):
            others = rivals_of(data) if config.evaluation.baselines else {}
        sizes, draws = data.plan.sizes, config.evaluation.draws
        found = evaluate(learned, rows, sizes, draws, others=others, untrained=untrained, progress=progress)
    return Result({"tables": found.values, "verdict": verdict(found.values)}, found.scores)


def score_name(method: str, metric: str, size: int | str) -> str:
    """What the scores of the single tasks are called in `scores.safetensors`: arrays `[tasks, steps + 1]`."""
    return f"{method}/{metric}/{size}"


def comparables(config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> list[Comparable]:
    """The scores of a finished run that other runs can be compared with.

    Args:
        config: its configuration.
        result: its evaluation.
        scores: of single tasks, as `score` gives them.

    Raises:
        KeyError: if the scores of the learner itself are not among them.
    """
    found = []
    for row in (result["tables"] or {"rows": ()})["rows"]:
        own = row["method"] == OURS
        for metric in row["metrics"]:
            name = score_name(row["method"], metric, row["size"])
            if own or name in scores:
                title = f"{metric}, {row['size']} support {'shots' if _of_images(result) else 'rows'}"
                lower = metric in LOWER_IS_BETTER
                found.append(Comparable(title, scores[name], lower, "" if own else row["method"]))
    return found


def _of_images(result: Mapping[str, Any]) -> bool:
    """Whether the test tasks are episodes of images, whose support sizes are shots of each class."""
    return not (result["tables"] or {}).get("tasks")


def identity_of_test_tasks(config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the test tasks depend on, by flag: runs are comparable where all of it agrees."""
    tables = result["tables"] or {"rows": (), "tasks": {}}
    sizes = dict.fromkeys(row["size"] for row in tables["rows"])
    identity: dict[str, Any] = {
        "--task-column": config.task_column,
        "--target": config.target,
        "--split-column": config.split_column,
        "--evaluation.sizes": list(sizes),
        "--evaluation.draws": result["settings"]["draws"],
    }
    if not config.split_column:
        identity["--seed"] = config.seed
    if _of_images(result):
        identity["--ways"] = config.ways
    names = sorted({name for by_size in tables["tasks"].get(OURS, {}).values() for name in by_size})
    if names:
        digest = hashlib.sha256(repr(names).encode()).hexdigest()[:8]
        identity["the test tasks"] = f"{len(names)} from {names[0]} to {names[-1]}, {digest}"
    return identity


def evaluate(
    learned: TrainedLearner,
    rows: Rows,
    sizes: Sequence[int],
    draws: int,
    *,
    others: Mapping[str, Rival] | None = None,
    untrained: TrainedLearner | None = None,
    draw: Draw | None = None,
    progress: Progress | None = None,
) -> Result:
    """Adapt to support sets of every task, and score on its other rows.

    Args:
        learned: the learner.
        rows: the tasks.
        sizes: of the support sets.
        draws: support sets of each size from each task.
        others: models that see the same rows, by name.
        untrained: the learner before training.
        draw: draws them; `stratified` unless given.
        progress: told of each size.

    Returns:
        `rows`: for each method and size the mean over tasks of every metric, with the half-width of its 95 % interval;
        `differences`: the same of the learner's score less the method's, of each task;
        `curves`: for each size every metric after 0, 1, ..., k inner steps; `tasks`: for each method and size every
        task's metrics; and the scores of the single tasks, see `score_name`.

    Raises:
        InnerloopError: if no task is large enough for the smallest size.
    """
    methods: dict[str, Method] = {OURS: partial(_adapted_scores, learned)}
    if untrained is not None:
        methods[UNTRAINED] = partial(_adapted_scores, untrained)
    methods |= {name: partial(rival_scores, rival, learned.design.pooled) for name, rival in (others or {}).items()}
    return _evaluated(methods, learned.preparation, rows, sizes, draws, draw or stratified, progress)


def evaluate_rivals(
    preparation: Preparation,
    rows: Rows,
    sizes: Sequence[int],
    draws: int,
    *,
    draw: Draw | None = None,
    progress: Progress | None = None,
) -> Result:
    """The same for models that are fitted on each support set alone, without a learner beside them."""
    methods: dict[str, Method] = {
        name: partial(rival_scores, rival, 0) for name, rival in rivals.alone(rows.regression).items()
    }
    return _evaluated(methods, preparation, rows, sizes, draws, draw or stratified, progress)


def _evaluated(
    methods: Mapping[str, Method],
    preparation: Preparation,
    rows: Rows,
    sizes: Sequence[int],
    draws: int,
    draw: Draw,
    progress: Progress | None,
) -> Result:
    inputs = preparation.encode(rows.columns)
    order = np.argsort(rows.tasks, kind="stable")
    bounds = np.searchsorted(rows.tasks[order], np.arange(len(rows.names) + 1))
    table: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    own: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    by_task: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for size in sizes:
        found: dict[str, dict[str, list[list[float]]]] = {method: {} for method in methods}
        names: list[str] = []
        with progress.timed(f"evaluating with {size} support rows") if progress else nullcontext():
            for task, name in enumerate(rows.names):
                places = order[bounds[task] : bounds[task + 1]]
                target = rows.target[places]
                drawn = [draw(target, size, seed) for seed in range(draws)] if enough(target, size) else []
                drawn = [pair for pair in drawn if judgeable(target[pair[1]])]
                if not drawn:
                    continue
                names.append(name)
                x = Inputs(*(array[places] for array in inputs))
                for method, measure in methods.items():
                    for metric, values in measure(x, target, drawn).items():
                        found[method].setdefault(metric, []).append(values)
        for method, metrics in found.items() if names else ():
            final = {metric: [value[-1] for value in values] for metric, values in metrics.items()}
            table.append({"method": method, "size": size, "tasks": len(names), "metrics": _summary(final)})
            by_task.setdefault(method, {})[str(size)] = dict(zip(names, _by_task(final), strict=True))
            scores |= {score_name(method, metric, size): np.array(values) for metric, values in metrics.items()}
            if method == OURS:
                own = final
            elif own:
                less = {metric: np.subtract(own[metric], values) for metric, values in final.items()}
                differences.append({"method": method, "size": size, "metrics": _summary(less)})
            if method == OURS:
                curves[str(size)] = {metric: np.mean(values, axis=0).tolist() for metric, values in metrics.items()}
    if not table:
        raise InnerloopError(
            f"No test task has more than {min(sizes)} rows; lower --evaluation.sizes, or hold out larger tasks."
        )
    return Result(
        {"interval": SHARE, "rows": table, "differences": differences, "curves": curves, "tasks": by_task}, scores
    )


def evaluate_images(learned: TrainedLearner, rows: Rows, ways: int, shots: Sequence[int], queries: int) -> Result:
    """The accuracy on episodes drawn from test images, as `evaluate` gives it."""
    table, curves, kept = [], {}, {}
    for number in shots:
        try:
            drawn = ClassEpisodes.from_rows(
                learned.preparation.encode(rows.columns),
                rows.target,
                rows.tasks,
                ways=ways,
                shots=(number,),
                queries=queries,
            )
        except InnerloopError as error:
            raise InnerloopError(f"The test part does not give such episodes: {error}") from error
        scores = np.asarray(_episode_scores(learned, drawn, ways))
        table.append({"method": OURS, "size": number, "tasks": len(scores), "metrics": _summary({"accuracy": scores})})
        curves[str(number)] = {"accuracy": scores.mean(axis=0).tolist()}
        kept[score_name(OURS, "accuracy", number)] = scores
    return Result({"interval": SHARE, "rows": table, "curves": curves, "tasks": {}}, kept)


def _episode_scores(learned: TrainedLearner, drawn: ClassEpisodes, ways: int) -> Any:
    design = learned.design

    @jax.jit
    def scores(key: Any) -> Any:
        task = drawn.sample(key, 10)
        adapted = learner.adapt_tasks(design, ways, learned.meta, task.support, trajectory=True)
        logits = learner.outputs_along(design, ways, learned.meta, adapted, task.query.x)
        return (logits.argmax(axis=-1) == task.query.y[:, None]).mean(axis=-1)

    return np.concatenate([scores(jax.random.key(i)) for i in range(EPISODES // 10)])


def _adapted_scores(
    learned: TrainedLearner, x: Inputs, target: np.ndarray, drawn: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, list[float]]:
    """Every metric after 0, 1, ..., k inner steps, averaged over the draws of one task."""
    targets = [support_targets(learned, target[support]) for support, _ in drawn]
    outputs = max(given.outputs for given in targets)
    size = padded_size(max(len(support) for support, _ in drawn))
    supports = [
        pad(Inputs(*(array[support] for array in x)), given.y, size)[0]
        for (support, _), given in zip(drawn, targets, strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *supports)
    adapted = learner.adapt_tasks(learned.design, outputs, learned.meta, stacked, trajectory=True)
    steps = adapted.losses.shape[1]
    params = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), adapted.params)
    center, scale = (jnp.repeat(unit, steps) for unit in (adapted.center, adapted.scale))
    members = Adapted(params, center, scale, adapted.losses.reshape(-1))
    every, count = pad(x, np.zeros(len(target)), padded_size(len(target)))
    scores = learner.outputs_of_members(learned.design, outputs, learned.meta, members, every.x)
    scores = np.asarray(scores)[:, :count].reshape(len(drawn), steps, count, -1)
    results: dict[str, list[list[float]]] = {}
    spread = spread_of(target)
    for i, ((_, query), given) in enumerate(zip(drawn, targets, strict=True)):
        for step in range(steps):
            rows = scores[i, step, query]
            chosen = rows[:, list(given.places)] if given.labels else given.original(rows[:, 0])
            for name, value in metrics_of(target[query], given.labels, chosen, spread).items():
                results.setdefault(name, [[] for _ in range(steps)])[step].append(value)
    return {name: [float(np.mean(by_draw)) for by_draw in values] for name, values in results.items()}


def _summary(metrics: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, tuple[float, float]]:
    """Mean over tasks and the half-width of its 95 % interval, after the last inner step."""
    found = {}
    for name, scores in metrics.items():
        mean, half_width = estimate(np.asarray(scores).reshape(len(scores), -1)[:, -1])
        found[name] = float(mean), float(half_width)
    return found


def _by_task(metrics: dict[str, list[float]]) -> list[dict[str, float]]:
    return [dict(zip(metrics, of_task, strict=True)) for of_task in zip(*metrics.values(), strict=True)]
