"""The report of a run in reinforcement learning, and its pictures."""

import base64
import io
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import rl
from innerloop.errors import InnerloopError
from innerloop.rl.types import HostEnv
from innerloop.runs.rundir import Run, write_text
from innerloop.types import Meta, Params
from innerloop.workloads.episodes import figures, report
from innerloop.workloads.episodes.recipes import RECIPES
from innerloop.workloads.reinforcement import scoring
from innerloop.workloads.reinforcement.build import Experiment
from innerloop.workloads.reinforcement.config import Config

SHOWN_TASKS, SHOWN_EPISODES = 3, 4
FRAME_STEPS, SPEED = 4, 0.5
"""Simulation steps between two frames of a video, and how fast it runs beside the robot."""
WIDTH, HEIGHT, METRE = 760, 150, 60
"""Of each strip of a video in pixels, and how many of them a metre takes."""
INK, GROUND, PAPER = (27, 31, 36), (170, 178, 186), (255, 255, 255)


def write(run: Run, experiment: Experiment, meta: Meta, result: dict[str, Any]) -> None:
    """Write `report.html`.

    Args:
        run: the run, with its records.
        experiment: what was trained.
        meta: what was learned.
        result: its evaluation.

    Raises:
        InnerloopError: if matplotlib is not installed, or the file cannot be written.
    """
    config = experiment.config
    records, environment = run.records(), run.known()
    recipe = RECIPES.get(config.recipe)
    found = scoring.walk(experiment, meta)
    walks = [_relative(leaf) for leaf in jax.tree.leaves(found.params)]
    paths, share = figures.plot_paths([walk[: figures.PATHS] for walk in walks])
    title, caption, picture = pictures(experiment, found)
    text = {
        "title": f"{config.recipe}: {config.algorithm}",
        "lead": lead(config, result, environment),
        "picture_title": title,
        "picture_caption": caption,
        "learned": "Tasks of training: the mean return of what is collected before adaptation and after each update.",
    }
    markup = {
        "tiles": report.tiles(records, result),
        "tested": tested(result),
        "tables": "".join(
            report.table_section(table, result, recipe.published if recipe else ()) for table in result["tables"]
        ),
        "picture": picture,
        "learning": learning_curve(records),
    }
    write_text(run.report, report.filled(config, environment, paths, share, recipe, text, markup))


def lead(config: Config, result: dict[str, Any], environment: dict[str, Any]) -> str:
    return (
        f"{config.environment}, inner estimator {config.inner.estimator}, outer update {config.outer.update}. Seed "
        f"{config.seed}, {result['meta_steps']:,} iterations of {config.outer.meta_batch} tasks. innerloop "
        f"{environment['versions']['innerloop']}."
    )


def tested(result: dict[str, Any]) -> str:
    """What the scores are of."""
    broken = sum(row["broken"] for table in result["tables"] for row in table["rows"])
    unsound = f" {broken} episodes ended because the simulation was no longer finite." if broken else ""
    return (
        f"The {result['test_tasks']} test tasks of the published results; mean and 95 % interval over tasks (1.96 "
        f"&sigma;/&radic;n) of the undiscounted return of an episode, after 0, 1, ... updates by policy gradient. Each "
        f"update takes {result['settings']['steps']:,} steps of the task; those collected with the updated policy "
        f"measure it, and make the next update.{unsound}"
    )


def learning_curve(records: Sequence[dict[str, Any]]) -> str:
    """Returns before adaptation and after each update over the iterations of training."""
    figure, axis = figures.pyplot().subplots(figsize=(6.4, 3.4))
    names = sorted({name for each in records for name in each if name.startswith("return_")})
    colours = [figures.COLOURS[6], *figures.COLOURS]
    for name, colour in zip(names, colours, strict=False):
        points = [(each["step"], each[name]) for each in records if name in each]
        updates = int(name.removeprefix("return_"))
        label = "before adaptation" if updates == 0 else f"after {report.counted(updates, 'update')}"
        axis.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=1.2)
    axis.set(xlabel="iteration", ylabel="mean return")
    axis.legend(fontsize=8)
    return figures.as_svg(figure)


def pictures(experiment: Experiment, found: rl.Adaptation) -> tuple[str, str, str]:
    """The title, the caption and the picture of what the adapted policies do."""
    name = experiment.config.environment
    if not isinstance(experiment.env, HostEnv):
        caption = (
            f"Three test tasks, each a row: the paths of {SHOWN_EPISODES} episodes to the goal (star), before "
            "adaptation and after each update."
        )
        return "Trajectories", caption, trajectories(experiment, found)
    caption = (
        f"{name}, one test task, half the real speed: above the policy before adaptation, below after "
        f"{report.counted(found.returns.shape[1] - 1, 'update')}. A mark on the ground is a metre from the next."
    )
    return "Before and after adaptation", caption, video(experiment, found)


def trajectories(experiment: Experiment, found: rl.Adaptation) -> str:
    """Paths in the plane, a row of pictures for each of the tasks that differ most in direction."""
    goals = scoring.tasks(experiment.config)
    chosen = _spread(goals)
    updates = found.returns.shape[1]
    figure, axes = figures.pyplot().subplots(
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
                axis.set_xlabel("before" if update == 0 else f"after {report.counted(update, 'update')}")
    return figures.as_svg(figure)


def video(experiment: Experiment, found: rl.Adaptation) -> str:
    """A moving picture of one robot before and after adaptation, as an `<img>` element.

    It is drawn from the capsules that the robot is made of, from the side, so it needs no graphics library of MuJoCo.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InnerloopError("The report needs pillow; install it with: pip install 'innerloop[report]'") from error
    gain = np.asarray(found.returns)[:, -1] - np.asarray(found.returns)[:, 0]
    task = int(np.argsort(gain)[len(gain) // 2])
    strips = []
    for update in (0, found.returns.shape[1] - 1):
        params = jax.tree.map(lambda leaf, update=update: jnp.asarray(leaf)[task, update], found.params)
        strips.append(list(frames(experiment, params, np.asarray(scoring.tasks(experiment.config)[task]))))
    length = max(map(len, strips))
    strips = [[*strip, *[strip[-1]] * (length - len(strip))] for strip in strips]
    images = [Image.fromarray(np.concatenate(pair)).quantize(32) for pair in zip(*strips, strict=True)]
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
