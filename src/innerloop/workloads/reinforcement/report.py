"""The report of a run in reinforcement learning, and its pictures."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import rl
from innerloop.extras import require
from innerloop.rl.types import HostEnv
from innerloop.runs import plots
from innerloop.runs.results import Section, Table, adaptation_table, counted
from innerloop.types import Meta, Params
from innerloop.workloads.reinforcement import scoring
from innerloop.workloads.reinforcement.build import Experiment
from innerloop.workloads.reinforcement.config import Config
from innerloop.workloads.reinforcement.recipes import RECIPES

SHOWN_TASKS, SHOWN_EPISODES = 3, 4
FRAME_STEPS, SPEED = 4, 0.5
"""Simulation steps between two frames of a video, and how fast it runs beside the robot."""
WIDTH, HEIGHT, METRE = 760, 150, 60
"""Of each strip of a video in pixels, and how many of them a metre takes."""
INK, GROUND, PAPER = (27, 31, 36), (170, 178, 186), (255, 255, 255)


def tables(result: Mapping[str, Any], config: Config) -> list[Table]:
    """The returns of each method after 0, 1, ... updates, beside the published ones."""
    published = RECIPES[config.recipe].published if config.recipe in RECIPES else ()
    return [
        adaptation_table(
            f"{result['unit']} of an episode: mean ± 95 % interval, {result['test_tasks']} test tasks",
            result,
            table,
            published=published,
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
    published = recipe.published if recipe else ()
    curves = [plots.adaptation_curve(result, table, published, xlabel="updates") for table in result["tables"]]
    shown = [
        Section(
            "What adaptation achieves",
            "".join(f"<figure>{curve}</figure>" for curve in curves),
            "The mean return of an episode on the test tasks of the published results, with its 95 % interval over "
            "tasks. What is collected with an updated policy measures it, and makes the next update.",
        ),
        pictures(experiment, found),
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
            "Training tasks: the mean return of what is collected before adaptation and after each update.",
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


def pictures(experiment: Experiment, found: rl.Adaptation) -> Section:
    """What the adapted policies do."""
    name = experiment.config.environment
    if not isinstance(experiment.env, HostEnv):
        caption = (
            f"Three test tasks, each a row: the paths of {SHOWN_EPISODES} episodes to the goal (star), before "
            "adaptation and after each update."
        )
        return Section("Trajectories", f"<figure>{trajectories(experiment, found)}</figure>", caption)
    caption = (
        f"{name}, one test task, half the real speed: above the policy before adaptation, below after "
        f"{counted(found.returns.shape[1] - 1, 'update')}. A mark on the ground is a metre from the next."
    )
    return Section("Before and after adaptation", f"<figure>{video(experiment, found)}</figure>", caption)


def trajectories(experiment: Experiment, found: rl.Adaptation) -> str:
    """Paths in the plane, a row of pictures for each of the tasks that differ most in direction."""
    goals = scoring.tasks(experiment.config)
    chosen = _spread(goals)
    updates = found.returns.shape[1]
    figure, axes = plots.pyplot().subplots(
        SHOWN_TASKS, updates, figsize=(2.3 * updates, 2.3 * SHOWN_TASKS), sharex=True, sharey=True, squeeze=False
    )
    for update in range(updates):
        params = jax.tree.map(lambda leaf, update=update: jnp.asarray(leaf)[chosen, update], found.params)
        rollouts = rl.collect(
            experiment.env,
            experiment.policy,
            params,
            jnp.asarray(goals[chosen], float),
            jax.random.key(update),
            episodes=SHOWN_EPISODES,
        )
        observed, mask = np.asarray(rollouts.observation)[..., :2], np.asarray(rollouts.mask)
        for row in range(SHOWN_TASKS):
            axis = axes[row][update]
            for episode in range(SHOWN_EPISODES):
                axis.plot(*observed[row, episode][mask[row, episode]].T, linewidth=0.9, alpha=0.8)
            axis.plot(*goals[chosen[row]], "*", markersize=13, color="black")
            axis.set_aspect("equal")
            axis.set_title(f"{found.returns[chosen[row], update]:.1f}", fontsize=9)
            if row == SHOWN_TASKS - 1:
                axis.set_xlabel("before" if update == 0 else f"after {counted(update, 'update')}")
    return plots.as_svg(figure)


def video(experiment: Experiment, found: rl.Adaptation) -> str:
    """A moving picture of one robot before and after adaptation, as an `<img>` element.

    It is drawn from the capsules that the robot is made of, from the side, so it needs no graphics library of MuJoCo.
    """
    image = require("PIL.Image", "report", "The report")
    gain = np.asarray(found.returns)[:, -1] - np.asarray(found.returns)[:, 0]
    task = int(np.argsort(gain)[len(gain) // 2])
    strips = []
    for update in (0, found.returns.shape[1] - 1):
        params = jax.tree.map(lambda leaf, update=update: jnp.asarray(leaf)[task, update], found.params)
        strips.append(list(frames(experiment, params, np.asarray(scoring.tasks(experiment.config)[task]))))
    length = max(map(len, strips))
    strips = [[*strip, *[strip[-1]] * (length - len(strip))] for strip in strips]
    images = [image.fromarray(np.concatenate(pair)).quantize(32) for pair in zip(*strips, strict=True)]
    robot = cast(rl.envs.Locomotion, rl.envs.make(experiment.config.environment)).robot
    shown = round(1000 * FRAME_STEPS * robot.model.opt.timestep / SPEED)
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=shown, loop=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="the robot before and after adaptation" src="data:image/gif;base64,{data}">'


def frames(experiment: Experiment, params: Params, task: np.ndarray) -> Any:
    """An episode as pictures, `[height, width, 3]` each."""
    from PIL import Image, ImageDraw

    env = cast(rl.envs.Locomotion, rl.envs.make(experiment.config.environment, num_envs=1))
    act = jax.jit(experiment.policy.__call__)
    observation = env.reset(task[None], np.array([0]))
    for t in range(env.horizon):
        if t % FRAME_STEPS == 0:
            ends, radius = env.capsules()
            image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
            draw = ImageDraw.Draw(image)
            base = HEIGHT - 20
            draw.line((0, base, WIDTH, base), fill=GROUND, width=2)
            for metre in range(-8, 9):
                draw.line((WIDTH / 2 + metre * METRE, base, WIDTH / 2 + metre * METRE, base + 8), fill=GROUND, width=2)
            for (start, end), thick in zip(ends[..., (0, 2)], radius, strict=True):
                (x1, y1), (x2, y2) = ((WIDTH / 2 + METRE * x, base - METRE * z) for x, z in (start, end))
                r = METRE * thick
                draw.line((x1, y1, x2, y2), fill=INK, width=max(round(2 * r), 1))
                for x, y in ((x1, y1), (x2, y2)):
                    draw.ellipse((x - r, y - r, x + r, y + r), fill=INK)
            yield np.asarray(image)
        action, _ = act(params, jnp.asarray(observation[0], float), jax.random.key(t))
        step = env.step(task[None], np.asarray(action)[None])
        observation = step.observation
        if step.terminated[0]:
            break


def _spread(goals: np.ndarray) -> np.ndarray:
    """Tasks whose goals lie far from each other: the farthest from the start, then the farthest from those chosen."""
    chosen = [int(np.argmax(np.linalg.norm(goals, axis=1)))]
    while len(chosen) < SHOWN_TASKS:
        distances = np.linalg.norm(goals[:, None] - goals[chosen], axis=-1).min(axis=1)
        chosen.append(int(np.argmax(distances)))
    return np.array(chosen)


def _relative(leaf: Any) -> np.ndarray:
    """Parameters `[tasks, steps + 1, ...]` relative to the initialisation, flat."""
    leaf = np.asarray(leaf)
    return (leaf - leaf[:, :1]).reshape(*leaf.shape[:2], -1)
