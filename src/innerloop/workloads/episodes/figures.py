"""The pictures of a report, drawn by matplotlib as SVG text."""

import io
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.core.adapt import adapt
from innerloop.core.names import COUNTER
from innerloop.core.outer import sample_task as sample_one
from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.types import Meta
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import SinusoidTasks
from innerloop.workloads.episodes.recipes import Published

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
RIGHT, WRONG = "#009e73", "#d55e00"
PATHS = 24
"""Test tasks whose paths through parameter space are drawn."""
PATH_BYTES = 2 * 2**30
"""A large network shows fewer paths, so that they fit into this."""


class Paths(NamedTuple):
    """Adaptation paths in the plane of their two principal directions: `points` is `[tasks, steps + 1, 2]`."""

    points: np.ndarray
    explained: np.ndarray


def pyplot() -> Any:
    """matplotlib, set up for SVG that keeps its text as text.

    Raises:
        InnerloopError: if it is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as error:
        raise InnerloopError("The report needs matplotlib; install it with: pip install 'innerloop[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "innerloop",
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "axes.axisbelow": True,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=COLOURS),
        }
    )
    return pyplot


def as_svg(figure: Any) -> str:
    """The figure as an `<svg>` element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def learning_curves(records: Sequence[dict[str, Any]], regression: bool) -> str:
    """Loss (and accuracy) before and after adaptation over the meta-steps."""
    plots = ["loss"] if regression else ["loss", "accuracy"]
    figure, axes = pyplot().subplots(1, len(plots), figsize=(4.6 * len(plots) + 1, 3.2), squeeze=False)
    for axis, name in zip(axes[0], plots, strict=True):
        for key, label, colour in (
            (f"{name}_before", "before adaptation (support set)", COLOURS[6]),
            (f"{name}_after", "after adaptation (query set)", COLOURS[0]),
        ):
            points = [(each["step"], each[key]) for each in records if key in each]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=1.2)
        validation = [
            (each["step"], value)
            for each in records
            for key, value in each.items()
            if key in (f"validation/query/{name}", f"validation/transductive/{name}")
        ]
        if validation:
            axis.plot(*zip(*validation, strict=True), "o", markersize=3, color=COLOURS[1], label="validation tasks")
        axis.set(xlabel="meta-step", ylabel="mean squared error" if regression else name)
        if name == "loss":
            axis.set_yscale("log")
            for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                which("{x:.3g}")
    axes[0][0].legend(fontsize=8)
    return as_svg(figure)


def adaptation_curve(
    table: dict[str, Any], metric: str, factor: float, unit: str, published: Sequence[Published]
) -> str:
    """The score after 0, 1, ..., k inner steps, with its 95 % interval over test tasks."""
    figure, axis = pyplot().subplots(figsize=(6.4, 3.6))
    for row, colour in zip(table["rows"], COLOURS * 3, strict=False):
        mean = np.array(row["metrics"][metric]["mean"]) * factor
        interval = np.array(row["metrics"][metric]["interval"]) * factor
        steps = np.arange(len(mean))
        label = row["method"] if row["judge"] == "query" else f"{row['method']}, {row['judge']}"
        style = "--" if row["judge"] == "inductive" else "-"
        axis.plot(steps, mean, style, marker="o", markersize=3, color=colour, label=label)
        axis.fill_between(steps, mean - interval, mean + interval, color=colour, alpha=0.2, linewidth=0)
    for method, marker in zip(dict.fromkeys(each.method for each in published), "*Ds^", strict=False):
        points = [each for each in published if each.method == method and each.shots == table["shots"]]
        if points:
            axis.plot(
                [each.steps for each in points],
                [each.value for each in points],
                marker,
                color="black",
                markersize=7,
                fillstyle="none",
                label=f"published: {method}",
            )
    axis.set(xlabel="inner steps", ylabel=unit)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return as_svg(figure)


def comparison(result: dict[str, Any], table: dict[str, Any]) -> str:
    """Adaptation curves of all that is compared, and the final scores against the time of a meta-step."""
    factor = result["factor"]
    rows = [row for row in table["rows"] if "curve" in row]
    figure, axes = pyplot().subplots(1, 2, figsize=(11, max(3.6, 0.3 * len(rows) + 1)), width_ratios=(1, 1.1))
    colours = (COLOURS * 4)[: len(rows)]
    for row, colour, style in zip(rows, colours, "-" * 7 + ":" * 7 + "-" * 14, strict=False):
        mean = np.array(row["curve"]["mean"]) * factor
        axes[0].plot(np.arange(len(mean)), mean, style, marker=".", color=colour, label=row["label"])
    axes[0].set(xlabel="inner steps", ylabel=result["unit"])
    if result["metric"] == "loss":
        axes[0].set_yscale("log")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    places = np.arange(len(rows))[::-1]
    for place, row, colour in zip(places, rows, colours, strict=True):
        bar = row["interval"] * factor
        axes[1].errorbar(row["mean"] * factor, place, xerr=bar, fmt="o", markersize=5, color=colour, capsize=3)
        axes[1].plot(np.array(row["by_seed"]) * factor, [place] * len(row["by_seed"]), "|", color=colour, alpha=0.7)
    axes[1].set_yticks(places, [row["label"] for row in rows], fontsize=8)
    axes[1].set(xlabel=f"{result['unit']}, with its 95 % interval over tasks; | each seed")
    axes[0].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    return as_svg(figure)


def sinusoid_fits(experiment: Experiment, meta: Meta, tasks: int = 3) -> str:
    """Unseen sinusoids and what is predicted after 0, 1 and 10 inner steps, as in the paper's Figure 2."""
    assert isinstance(experiment.config.tasks, SinusoidTasks)
    shots = experiment.config.evaluation.shots[0]
    distribution, densely = (experiment.distribution("test", shots, queries) for queries in (1, 400))
    low, high = experiment.config.tasks.inputs
    grid = jnp.linspace(low, high, 200)[:, None]
    figure, axes = pyplot().subplots(1, tasks, figsize=(4 * tasks, 3.2), sharey=True, squeeze=False)
    for i, axis in enumerate(axes[0]):
        key = jax.random.fold_in(jax.random.key(experiment.config.evaluation.seed), i)
        task = sample_task(distribution, key)
        trajectory = _trajectory(experiment, 10)(meta, task.support, key)
        dense = sample_task(densely, key).query  # the same key draws the same sinusoid, whatever the number of points
        order = jnp.argsort(dense.x[:, 0])
        axis.plot(dense.x[order], dense.y[order], color="black", linewidth=1, label="task")
        for steps, style in ((0, ":"), (1, "--"), (10, "-")):
            params = jax.tree.map(lambda leaf, steps=steps: leaf[steps], trajectory)
            label = f"after {steps} steps" if steps != 1 else "after 1 step"
            axis.plot(grid, experiment.model.apply(params, grid), style, color=COLOURS[0], label=label)
        axis.plot(task.support.x, task.support.y, "o", color=COLOURS[1], markersize=5, label=f"{shots} support points")
        axis.set(xlabel="x")
    axes[0][0].legend(fontsize=8, loc="lower left")
    return as_svg(figure)


def episode(experiment: Experiment, meta: Meta, queries: int = 2) -> str:
    """A test episode: its support images, and its query images with the predictions before and after adaptation."""
    config = experiment.config
    assert not isinstance(config.tasks, SinusoidTasks)
    shots, ways = config.evaluation.shots[0], config.tasks.ways
    distribution = experiment.distribution("test", shots, queries)
    key = jax.random.key(config.evaluation.seed)
    task = sample_task(distribution, key)
    trajectory = _trajectory(experiment, config.evaluation.steps)(meta, task.support, key)

    @jax.jit
    def predictions(trajectory: Any, x: Any, step: int) -> Any:
        return experiment.model.apply(jax.tree.map(lambda leaf: leaf[step], trajectory), x).argmax(-1)

    before, after = (np.asarray(predictions(trajectory, task.query.x, step)) for step in (0, config.evaluation.steps))
    shown = min(shots, 3)
    rows = shown + queries
    figure, axes = pyplot().subplots(rows, ways, figsize=(max(1.05 * ways, 6), 1.35 * rows), squeeze=False)
    support = np.asarray(task.support.x).reshape(ways, shots, *task.support.x.shape[1:])
    query = np.asarray(task.query.x).reshape(ways, queries, *task.query.x.shape[1:])
    for way in range(ways):
        for row in range(rows):
            axis = axes[row][way]
            axis.set_xticks([])
            axis.set_yticks([])
            image = support[way, row] if row < shown else query[way, row - shown]
            axis.imshow(1 - image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
            if row < shown:
                axis.set_title(f"class {way}" if row == 0 else "", fontsize=8)
                continue
            index = way * queries + row - shown
            colour = RIGHT if after[index] == way else WRONG
            axis.set_xlabel(f"{before[index]} → {after[index]}", color=colour, fontsize=8, labelpad=2)
            for spine in axis.spines.values():
                spine.set(visible=True, edgecolor=colour, linewidth=1.5)
    axes[0][0].set_ylabel("support", fontsize=8)
    axes[shown][0].set_ylabel("query", fontsize=8)
    return as_svg(figure)


def parameter_paths(experiment: Experiment, meta: Meta) -> tuple[str, float]:
    """The adapted parameters of test tasks on their way from the initialisation.

    Returns:
        The picture, and the share of the paths' variance that lies in the plane.
    """
    settings = experiment.config.evaluation
    size = (settings.steps + 1) * sum(leaf.nbytes for leaf in jax.tree.leaves(meta.params))
    tasks = max(2, min(PATHS, settings.tasks, PATH_BYTES // size))
    return plot_paths(trajectories(experiment, meta, tasks))


def plot_paths(walks: Sequence[np.ndarray]) -> tuple[str, float]:
    """Paths of parameters from a common origin, in the plane where they differ most.

    Args:
        walks: `[tasks, steps + 1, parameters]` relative to the origin, in one or several arrays.

    Returns:
        The picture, and the share of the paths' variance that lies in the plane.
    """
    paths = project(walks)
    figure, axis = pyplot().subplots(figsize=(5.2, 4.4))
    for path, colour in zip(paths.points, COLOURS * PATHS, strict=False):
        axis.plot(*path.T, marker=".", markersize=3, linewidth=1, color=colour, alpha=0.7)
        axis.plot(*path[-1], "o", markersize=5, color=colour)
    axis.plot(0, 0, "*", markersize=14, color="black", label="initialisation θ")
    axis.plot([], [], "o", color=COLOURS[0], label=f"θ' of a task after {paths.points.shape[1] - 1} steps")
    axis.set(
        xlabel=f"first principal direction ({100 * paths.explained[0]:.0f} % of variance)",
        ylabel=f"second ({100 * paths.explained[1]:.0f} %)",
    )
    axis.legend(fontsize=8)
    return as_svg(figure), float(paths.explained.sum())


def trajectories(experiment: Experiment, meta: Meta, tasks: int) -> list[np.ndarray]:
    """Adapted parameters of test tasks relative to the initialisation: leaves `[tasks, steps + 1, parameters]`."""
    settings = experiment.config.evaluation
    distribution = experiment.distribution("test", settings.shots[0], 1)
    walk = _trajectory(experiment, settings.steps)
    walks = []
    for i in range(tasks):
        key = jax.random.fold_in(jax.random.key(settings.seed), i)
        path = walk(meta, sample_task(distribution, key).support, key)
        leaves = [leaf for where, leaf in jax.tree.leaves_with_path(path) if path_name(where) != COUNTER]
        walks.append([np.asarray(leaf - leaf[0]).reshape(leaf.shape[0], -1) for leaf in leaves])
    return [np.stack(leaf) for leaf in zip(*walks, strict=True)]


def project(walks: Sequence[np.ndarray]) -> Paths:
    """The two principal directions of `[tasks, steps + 1, parameters]`, through the initialisation at the origin.

    The parameters may come in several arrays; only the products of the points with each other are formed.
    """
    products = sum(each @ each.T for walk in walks for each in [walk.reshape(-1, walk.shape[-1]).astype(np.float64)])
    values, vectors = np.linalg.eigh(products)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    plane = vectors[:, :2] * np.sqrt(values[:2])
    return Paths(plane.reshape(*walks[0].shape[:2], 2), values[:2] / max(values.sum(), 1e-300))


sample_task = jax.jit(sample_one)


def _trajectory(experiment: Experiment, steps: int) -> Any:
    run = partial(
        adapt, experiment.loss, rule=experiment.rule, steps=steps, adjoint=experiment.forward, trajectory=True
    )
    return jax.jit(lambda meta, support, key: run(meta, support, key).trajectory)
