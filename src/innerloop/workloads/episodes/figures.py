"""The pictures of a report that only episodes have, drawn by matplotlib as SVG text."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.core.adapt import adapt
from innerloop.core.names import COUNTER
from innerloop.core.outer import sample_task as sample_one
from innerloop.core.trees import path_name
from innerloop.runs import plots
from innerloop.types import Meta
from innerloop.workloads.episodes import scoring
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import PhantomTasks, SinusoidTasks
from innerloop.workloads.episodes.network import ways_of

RIGHT, WRONG = "#009e73", "#d55e00"
PATH_BYTES = 2 * 2**30
"""A large network shows fewer paths, so that they fit into this."""


def sinusoid_fits(experiment: Experiment, meta: Meta, tasks: int = 3) -> str:
    """Unseen sinusoids and what is predicted after 0, 1 and 10 inner steps, as in the paper's Figure 2."""
    assert isinstance(experiment.config.tasks, SinusoidTasks)
    shots = experiment.config.evaluation.shots[0]
    distribution, densely = (experiment.distribution("test", shots, queries) for queries in (1, 400))
    low, high = experiment.config.tasks.inputs
    grid = jnp.linspace(low, high, 200)[:, None]
    figure, axes = plots.pyplot().subplots(1, tasks, figsize=(4 * tasks, 3.2), sharey=True, squeeze=False)
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
            axis.plot(grid, experiment.model.apply(params, grid), style, color=plots.COLOURS[0], label=label)
        axis.plot(
            task.support.x, task.support.y, "o", color=plots.COLOURS[1], markersize=5, label=f"{shots} support points"
        )
        axis.set(xlabel="x")
    axes[0][0].legend(fontsize=8, loc="lower left")
    return plots.as_svg(figure)


def episode(experiment: Experiment, meta: Meta, queries: int = 2) -> str:
    """A test episode: its support images, and its query images with the predictions before and after adaptation."""
    config = experiment.config
    shots, ways = config.evaluation.shots[0], ways_of(config)
    distribution = experiment.distribution("test", shots, queries)
    key = jax.random.key(config.evaluation.seed)
    task = sample_task(distribution, key)
    trajectory = _trajectory(experiment, config.evaluation.steps)(meta, task.support, key)

    @jax.jit
    def predictions(trajectory: Any, x: Any, step: Any) -> Any:
        return experiment.model.apply(jax.tree.map(lambda leaf: leaf[step], trajectory), x).argmax(-1)

    before, after = (np.asarray(predictions(trajectory, task.query.x, step)) for step in (0, config.evaluation.steps))
    shown = min(shots, 3)
    rows = shown + queries
    figure, axes = plots.pyplot().subplots(rows, ways, figsize=(max(1.05 * ways, 6), 1.35 * rows), squeeze=False)
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
    return plots.as_svg(figure)


def parameter_paths(experiment: Experiment, meta: Meta) -> tuple[str, float]:
    """The adapted parameters of test tasks on their way from the initialisation.

    Returns:
        The picture, and the share of the paths' variance that lies in the plane.
    """
    settings = experiment.config.evaluation
    size = (settings.steps + 1) * sum(leaf.nbytes for leaf in jax.tree.leaves(meta.params))
    tasks = max(2, min(plots.SHOWN_PATHS, settings.tasks, PATH_BYTES // size))
    return plots.plot_paths(trajectories(experiment, meta, tasks))


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


sample_task = jax.jit(sample_one)


def _trajectory(experiment: Experiment, steps: int) -> Any:
    run = partial(
        adapt, experiment.loss, rule=experiment.rule, steps=steps, adjoint=experiment.forward, trajectory=True
    )
    return jax.jit(experiment.layout.fast_products(lambda meta, support, key: run(meta, support, key).trajectory))


def reconstructions(experiment: Experiment, meta: Meta, scratch_rate: float, phantoms: int = 4) -> str:
    """Test phantoms, and the images found from a random start and from the learned one after all inner steps."""
    config = experiment.config
    assert isinstance(config.tasks, PhantomTasks)
    side, steps = config.tasks.resolution, config.evaluation.steps
    distribution = experiment.distribution("test", config.evaluation.shots[0], 0)
    plain = scoring.without_algorithm(experiment, scratch_rate)
    starts = {
        "random start": (plain, Meta(scoring.random_start(plain), ())),
        "learned start": (experiment, meta),
    }
    figure, axes = plots.pyplot().subplots(3, phantoms, figsize=(2.3 * phantoms, 7.4), squeeze=False)
    for i in range(phantoms):
        sample_key, task_key = jax.random.split(jax.random.fold_in(scoring.test_key(config), i))  # as `evaluate` draws
        task = sample_task(distribution, sample_key)
        images = {"phantom": np.asarray(task.query.y)}
        for name, (of_start, learned) in starts.items():
            images[name] = np.asarray(_image(of_start, steps)(learned, task, task_key))
        for axis, (name, image) in zip(axes[:, i], images.items(), strict=True):
            axis.imshow(image.reshape(side, side), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            error = np.mean((image - images["phantom"]) ** 2)
            axis.set_xlabel(f"{-10 * np.log10(error):.1f} dB" if error else "", fontsize=8, labelpad=2)
            axis.grid(visible=False)
            if i == 0:
                axis.set_ylabel(name, fontsize=9)
    return plots.as_svg(figure)


def _image(experiment: Experiment, steps: int) -> Any:
    """What the adapted network makes of the query points."""
    run = partial(adapt, experiment.loss, rule=experiment.rule, steps=steps, adjoint=experiment.forward)

    def image(meta: Meta, task: Any, key: Any) -> Any:
        params = run(meta, task.support, jax.random.split(key)[0]).params
        return experiment.model.apply(params, task.query.x)

    return jax.jit(experiment.layout.fast_products(image))
