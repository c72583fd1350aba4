"""The evaluation of a run: adaptation curves on fixed test tasks, beside the baselines of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from innerloop import tasks
from innerloop.core import algorithms, losses, outer, rules
from innerloop.core.algorithms.learner import adapted_leaves
from innerloop.core.evaluate import evaluate
from innerloop.core.layout import Layout
from innerloop.core.trees import path_name
from innerloop.runs import codec, simpler
from innerloop.runs.best import Validated
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, counted, digits_of, estimate
from innerloop.runs.workload import Comparable
from innerloop.types import Meta, Params, TaskDistribution
from innerloop.workloads.episodes.build import Experiment, assemble, outer_optimizer
from innerloop.workloads.episodes.config import Config, Inner, Variant
from innerloop.workloads.episodes.config import Layout as LayoutSettings
from innerloop.workloads.episodes.network import network

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Step sizes among which a baseline chooses by its score on validation tasks."""
FIELD_RATES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The same for a field, whose squared errors of line integrals are small numbers."""
RATE_TASKS = 100
RATE_PHANTOMS = 10
RATE_SEED = 20_000
BASELINE_SEED = 30_000
BATCH = 128
"""Images in a batch of the pre-training."""
TEST = ("tasks", "shots", "queries", "seed")
"""The settings of an evaluation that its test tasks depend on."""

BEST = ", best on validation"
ENSEMBLE = ", {} best together"
"""What is added to a method's name for what it learned at its best validation scores."""
SCRATCH = "random initialisation"
PRETRAINED = "pre-trained on all tasks"


def score(experiment: Experiment, last: Validated, progress: Progress, best: Sequence[Validated] = ()) -> Result:
    """Evaluate what was learned.

    Args:
        experiment: what was trained; its `config.evaluation` says what is measured.
        last: what was learned in the end.
        progress: what is said meanwhile.
        best: what was learned at the best validation scores, the best first.

    Returns:
        For each number of shots a table of methods, with every metric after 0, 1, ..., k inner steps; and the scores of
        the single tasks, see `score_name`.
    """
    config = experiment.config
    settings = config.evaluation
    curves = Curves(experiment)
    contestants: list[tuple[str, Curves, Params, bool]] = [(config.algorithm, curves, last.learned, False)]
    if best and best[0].step != last.step:
        contestants.append((f"{config.algorithm}{BEST}", curves, best[0].learned, False))
    if settings.ensemble > 1 and len(best) > 1:
        members = [each.learned for each in best[: settings.ensemble]]
        stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *members)
        together = f"{config.algorithm}{ENSEMBLE.format(len(members))}"
        contestants.append((together, Curves(experiment, ensemble=True), stacked, False))
    if settings.baselines:
        plain = without_algorithm(experiment)
        with progress.timed(f"pre-training the baseline ({settings.baseline_iterations:,} steps)"):
            pretrained = pretrain(plain, settings.baseline_iterations)
        others = Curves(plain)
        contestants += [(SCRATCH, others, random_start(plain), True), (PRETRAINED, others, pretrained, True)]

    tables = []
    for shots in settings.shots:
        what = (
            f"{counted(len(contestants), 'method')} on {settings.tasks} test tasks with {counted(shots, config.shot)}"
        )
        with progress.timed(f"evaluating {what}"):
            rows = [
                row
                for method, of_method, learned, choose_rate in contestants
                for row in of_method.rows(method, learned, shots, choose_rate=choose_rate)
            ]
        tables.append({"shots": shots, "rows": rows, **_gain(contestants, next(iter(experiment.eval_losses)), shots)})
    metric, factor, unit = experiment.scale_metric()
    values = {
        "metric": metric,
        "factor": factor,
        "unit": unit,
        "settings": asdict(settings),
        "test_tasks": settings.tasks,
        "test_seed": settings.seed,
        "queries": settings.queries,
        "tables": tables,
        "best": [{"step": each.step, "score": each.score} for each in best],
    }
    evaluated = dict.fromkeys(of_method for _, of_method, _, _ in contestants)
    scores = {name: kept for of_method in evaluated for name, kept in of_method.kept.items()}
    as_well = simpler.remarks(comparables(config, values, scores), (SCRATCH, PRETRAINED), digits=digits_of(values))
    return Result(values | {"simpler": as_well}, scores)


def _gain(contestants: Sequence[tuple[str, "Curves", Params, bool]], judge: str, shots: int) -> dict[str, Any]:
    """What the first has more than a random start, paired over the test tasks, if that was evaluated."""
    scores = {method: of_method.kept[score_name(method, judge, shots)] for method, of_method, _, _ in contestants}
    if SCRATCH not in scores:
        return {}
    mean, interval = estimate(scores[contestants[0][0]].astype(np.float64) - scores[SCRATCH])
    return {"gain": {"mean": mean.tolist(), "interval": interval.tolist()}}


def comparables(config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> list[Comparable]:
    """The scores of a finished run that other runs can be compared with.

    Args:
        config: its configuration.
        result: its evaluation.
        scores: of single tasks, as `score` gives them.

    Raises:
        KeyError: if the scores of the run's own method are not among them.
    """
    found = []
    for table in result["tables"]:
        for row in table["rows"]:
            own = row["method"] == config.algorithm
            name = score_name(row["method"], row["judge"], table["shots"])
            if own or name in scores:
                by = "" if row["judge"] == "query" else f", {row['judge']}"
                title = f"{table['shots']}-{config.shot}, {result['unit']}{by}"
                curves = scores[name] * result["factor"]
                found.append(Comparable(title, curves, result["metric"] == "loss", "" if own else row["method"]))
    return found


def identity_of_test_tasks(config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the test tasks depend on, by flag: runs are comparable where all of it agrees."""
    measured = {f"--evaluation.{name}": result["settings"][name] for name in TEST}
    settings = {f"--tasks.{codec.flag(name)}": value for name, value in codec.leaves(config.tasks)}
    if ways := result["settings"].get("ways"):
        settings["--tasks.ways"] = ways
    return {
        **measured,
        "--tasks": type(config.tasks).__name__.removesuffix("Tasks").lower(),
        **{name: value for name, value in settings.items() if name not in ("--tasks.shots", "--tasks.queries")},
    }


def score_name(method: str, judge: str, shots: int) -> str:
    """What the scores of the single tasks are called in `scores.safetensors`: arrays `[tasks, steps + 1]`."""
    return f"{method}/{judge}/{shots}"


class Curves:
    """Adaptation curves on validation and test tasks; each shape is compiled once.

    Args:
        experiment: what was trained.
        ensemble: whether what is evaluated are several that predict together, along a leading axis of all leaves.

    Attributes:
        kept: the scores of the single test tasks, see `score_name`.
    """

    def __init__(self, experiment: Experiment, *, ensemble: bool = False):
        self._experiment, self._ensemble = experiment, ensemble
        self._losses = experiment.losses_together if ensemble else experiment.eval_losses
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
        curves = self._run(learned, "test", shots, self._settings.tasks, test_key(self._experiment.config), choose_rate)
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
                    for mean, interval in [estimate(values)]
                },
            }
            for judge in judges
        ]

    def _best_rate(self, params: Params, shots: int) -> float:
        metric = self._experiment.scale_metric()[0]
        judge = next(iter(self._experiment.eval_losses))
        field, scores = self._experiment.config.network.kind == "field", []
        rates, count = (FIELD_RATES, RATE_PHANTOMS) if field else (RATES, RATE_TASKS)
        for rate in rates:
            curves = self._run(Meta(params, jnp.asarray(rate)), "val", shots, count, _key(RATE_SEED), tuned=True)
            final = float(np.mean(np.asarray(curves[f"{judge}/{metric}"])[:, -1]))
            scores.append(np.nan_to_num(-final if metric == "loss" else final, nan=-np.inf))
        return rates[int(np.argmax(scores))]

    def _run(self, meta: Meta, part: Any, shots: int, count: int, key: Any, tuned: bool) -> dict[str, np.ndarray]:
        if (part, shots) not in self._tasks:
            distribution = self._experiment.distribution(part, shots, self._experiment.config.test_queries)
            self._tasks[part, shots] = self._layout.replicate(distribution)
        if (tuned, count) not in self._compiled:
            self._compiled[tuned, count] = jax.jit(
                partial(
                    evaluate,
                    self._experiment.loss,
                    rule=self._tuned if tuned else self._experiment.rule,
                    steps=self._experiment.test_steps,
                    num_tasks=count,
                    query_losses=self._losses,
                    layout=self._layout,
                    adjoint=self._experiment.forward,
                    ensemble=self._ensemble,
                )
            )
        curves = self._compiled[tuned, count](self._layout.replicate(meta), self._tasks[part, shots], key)
        missing = self._settings.steps - self._experiment.test_steps  # they would change nothing
        return {
            name: np.pad(values, ((0, 0), (0, missing), *((0, 0),) * (np.ndim(values) - 2)), mode="edge")
            for name, values in curves.items()
        }


def without_algorithm(experiment: Experiment, rate: float | None = None) -> Experiment:
    """The network itself, without what the algorithm asks of it: the baselines are the same for every algorithm.

    Args:
        experiment: what was trained.
        rate: the step size of gradient descent, if another one.
    """
    config = replace(experiment.config, algorithm="maml", variant=Variant(), layout=_any_adjoint(experiment.config))
    if rate is not None:
        config = replace(config, inner=Inner(learning_rate=rate, steps=config.inner.steps))
    return assemble(config, experiment.data).alone()


def random_start(plain: Experiment) -> Params:
    """The parameters from which the baseline without training adapts."""
    return plain.model.init(_key(BASELINE_SEED + plain.config.seed))


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
        source = experiment.whole_training_tasks()
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


def _any_adjoint(config: Config) -> LayoutSettings:
    """The layout without a choice among derivatives, which the baselines do not take."""
    return replace(config.layout, adjoint="auto", loop="auto")


def test_key(config: Config) -> Any:
    """Fixes the test tasks: task `i` derives from `fold_in(key, i)`."""
    return _key(config.evaluation.seed)


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="threefry2x32")
