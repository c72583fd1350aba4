"""The report of a run in reinforcement learning."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import jax
import numpy as np

from innerloop import rl
from innerloop.rl.types import HostEnv
from innerloop.runs import plots
from innerloop.runs.progress import duration
from innerloop.runs.results import Section, Table, adaptation_table, counted
from innerloop.types import Meta
from innerloop.workloads.reinforcement import pictures, published, scoring
from innerloop.workloads.reinforcement.build import Experiment
from innerloop.workloads.reinforcement.config import Config
from innerloop.workloads.reinforcement.recipes import RECIPES


def tables(result: Mapping[str, Any], config: Config) -> list[Table]:
    """The returns of each method after 0, 1, ... updates, beside the published ones."""
    figures = RECIPES[config.recipe].published if config.recipe in RECIPES else ()
    return [
        adaptation_table(
            f"{result['unit']} of an episode: mean ± 95 % interval, {result['test_tasks']} test tasks",
            result,
            table,
            published=figures,
            notes=_notes(result, table),
        )
        for table in result["tables"]
    ]


def _notes(result: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """What the returns are of."""
    notes = [
        f"undiscounted, after 0, 1, ... updates by policy gradient, each of {counted(table['shots'], 'episode')} "
        f"({result['settings']['steps']:,} steps)"
    ]
    broken = sum(row["broken"] for row in table["rows"])
    if broken:
        notes.append(f"{counted(broken, 'episode')} ended because the simulation was no longer finite")
    return notes


def sections(
    experiment: Experiment, meta: Meta, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """The pictures of a run.

    Args:
        experiment: what was trained, with the settings of the evaluation.
        meta: what was learned.
        result: its evaluation.
        records: what training recorded.

    Raises:
        InnerloopError: if matplotlib or pillow is not installed.
    """
    config = experiment.config
    recipe = RECIPES.get(config.recipe)
    found = scoring.walk(experiment, meta)
    walks = [_relative(leaf) for leaf in jax.tree.leaves(found.params)]
    paths, share = plots.plot_paths([walk[: plots.SHOWN_PATHS] for walk in walks])
    figures = recipe.published if recipe else ()
    curves = [plots.adaptation_curve(result, table, figures, xlabel="updates") for table in result["tables"]]
    shown = [
        Section(
            "What adaptation achieves",
            "".join(f"<figure>{curve}</figure>" for curve in curves),
            "The mean return of an episode on the test tasks of the published results, with its 95 % interval over "
            "tasks. What is collected with an updated policy measures it, and makes the next update.",
        ),
        *single_tasks(config, result),
        behaviour(experiment, found),
        Section(
            "Fast weights",
            f"<figure>{paths}</figure>",
            "Each line is one test task: its parameters on their way from the initialisation θ to the adapted θ', "
            f"in the plane of the two principal directions of all paths, which holds {100 * share:.0f} % of their "
            "variance.",
        ),
        Section(
            "Learning",
            f"<figure>{plots.learning_curves(records, {'mean return': lines(records)}, unit='iteration')}</figure>",
            "Training tasks: the mean return of what is collected before adaptation and after each update. "
            + spent(experiment, records),
        ),
    ]
    if recipe and recipe.deviations:
        heading = "Where this departs from the published experiment"
        shown.append(Section(heading, f"<p>{escape(recipe.deviations)}</p>"))
    return shown


def lines(records: Sequence[Mapping[str, Any]]) -> list[plots.Line]:
    """A line for the returns before adaptation and after each update."""
    names = sorted({name for record in records for name in record if name.startswith("return_")})
    found = []
    for name, colour in zip(names, [plots.GREY, *plots.COLOURS], strict=False):
        updates = int(name.removeprefix("return_"))
        label = "before adaptation" if updates == 0 else f"after {counted(updates, 'update')}"
        found.append(plots.Line(name, label, colour))
    return found


def spent(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> str:
    """How many steps and how much time training took, in a sentence."""
    config = experiment.config
    starts = [0, *(record["step"] for record in records)]
    seconds = [
        (record["step"] - start) * config.outer.meta_batch / record["tasks_per_second"]
        for start, record in zip(starts, records, strict=False)
    ]
    collections = 1 + (config.inner.steps if experiment.algorithm.adapts else 0)
    steps = starts[-1] * config.outer.meta_batch * collections * config.sampling.episodes * experiment.horizon
    most = "at least" if config.sampling.rule == "steps" else "at most"
    return (
        f"{starts[-1]:,} iterations with {most} {steps:,} steps of {config.environment}, in {duration(sum(seconds))} "
        "without compiling."
    )


def single_tasks(config: Config, result: Mapping[str, Any]) -> list[Section]:
    """The return of each test task against its goal, before those that were published."""
    rows = [row for table in result["tables"] for row in table["rows"] if row["method"] == config.algorithm]
    if not rows:
        return []
    returns = np.asarray(rows[0]["per_task"])
    beside = published.returns(config.environment)
    caption = "Each point is a test task." + (f" Crosses: {published.source()}." if beside is not None else "")
    picture = pictures.goals(scoring.tasks(config), {config.algorithm: returns}, beside)
    return [Section("Each test task", f"<figure>{picture}</figure>", caption)]


def behaviour(experiment: Experiment, found: rl.Adaptation) -> Section:
    """What the adapted policies do."""
    name = experiment.config.environment
    if not isinstance(experiment.env, HostEnv):
        caption = (
            f"Three test tasks, each a row: the paths of {pictures.SHOWN_EPISODES} episodes to the goal (star), before "
            "adaptation and after each update."
        )
        return Section("Trajectories", f"<figure>{pictures.trajectories(experiment, found)}</figure>", caption)
    caption = (
        f"{name}, the test tasks with the least and the greatest goal side by side, at half the real speed: above the "
        f"policy before adaptation, below after {counted(found.returns.shape[1] - 1, 'update')}. The picture follows "
        "the robot; a mark on the ground is a metre from the next."
    )
    return Section("Before and after adaptation", f"<figure>{pictures.video(experiment, found)}</figure>", caption)


def _relative(leaf: Any) -> np.ndarray:
    """Parameters `[tasks, steps + 1, ...]` relative to the initialisation, flat."""
    leaf = np.asarray(leaf)
    return (leaf - leaf[:, :1]).reshape(*leaf.shape[:2], -1)
